/* A partition's first serial port, as far as kernels and getty want one: a 16550 without interrupts. What it writes is
 * kept in a ring, for the management channel. */
#ifndef MH_CONSOLE_H
#define MH_CONSOLE_H

#include "devices/io.h"

void console_access(struct core *core, struct io *io);
/* Copy what was written since `from` (a count of bytes); returns the count up to which it was copied. */
uint64_t console_read(struct console *console, uint64_t from, uint8_t *at, size_t size, size_t *length);

#endif
