/* How a request is taken apart and its reply put together. */
#ifndef MH_REPLY_H
#define MH_REPLY_H

#include "channel/frame.h"
#include "channel/requests.h"
#include "partition/partition.h"

void reply_refuse(struct frame *reply, enum refusal why, const char *text);
void reply_put(struct frame *reply, const void *bytes, size_t length);
void reply_put8(struct frame *reply, uint8_t value);
void reply_put64(struct frame *reply, uint64_t value);

/* The partition that the payload's first 16 bytes name; NULL, and the reply is a refusal, if there is none, or the payload is
 * not of that length. */
struct partition *request_partition(const struct frame *request, size_t length, struct frame *reply);

#endif
