/* 16550 serial ports of the machine: the first is L0's log, the second the management channel. */
#ifndef MH_SERIAL_H
#define MH_SERIAL_H

#include "lib/base.h"

#define SERIAL_LOG 0x3f8
#define SERIAL_CHANNEL 0x2f8

void serial_init(uint16_t port, bool interrupts);
void serial_put(uint16_t port, uint8_t byte);
/* The next byte that came, or -1. */
int serial_get(uint16_t port);

#endif
