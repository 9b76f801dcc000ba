/* The machine's clock chip (MC146818): partitions read the time and change nothing. */
#ifndef MH_CLOCK_H
#define MH_CLOCK_H

#include "devices/io.h"

void clock_access(struct core *core, struct io *io);

#endif
