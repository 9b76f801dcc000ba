/* Requests that are the reference monitor's to decide (monitor/monitor.h). */
#ifndef MH_ACTS_H
#define MH_ACTS_H

#include "channel/frame.h"

void acts_attest(const struct frame *request, struct frame *reply);
void acts_tenant(const struct frame *request, struct frame *reply);
void acts_challenge(const struct frame *request, struct frame *reply);
void acts_begin(const struct frame *request, struct frame *reply);
void acts_page(const struct frame *request, struct frame *reply);
void acts_counted(const struct frame *request, struct frame *reply);

#endif
