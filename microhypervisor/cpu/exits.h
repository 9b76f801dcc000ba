#ifndef MH_EXITS_H
#define MH_EXITS_H

#include "partition/partition.h"

/* Deal with the exit that the current VMCB holds. Whatever is not known parks the partition. */
void handle_exit(struct core *core);

#endif
