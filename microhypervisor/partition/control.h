/* What the monitor core does with partitions: load, measure, start, stop. Nothing here runs on another core. */
#ifndef MH_CONTROL_H
#define MH_CONTROL_H

#include "partition/partition.h"

/* Make its address space, once, at machine start. NULL, or why not. */
const char *partition_build(struct partition *partition);

/* NULL, or why it was refused. A partition is stopped before it is started again. */
const char *partition_start(struct partition *partition);
const char *partition_stop(struct partition *partition, const char *reason);

void partition_leave(struct partition *partition, const char *reason); /* any core */
void monitor_wake(void);                                               /* any core: there is something to restart */
extern uint64_t tsc_khz;

#endif
