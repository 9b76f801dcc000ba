/* A walk of L1's own page tables in long mode, for reading its instructions (APM 2, 5.3). */
#ifndef MH_WALK_H
#define MH_WALK_H

#include "memory/npt.h"

/* The guest physical address of a linear address, or NOWHERE if it is not mapped or its tables are not the
 * partition's memory. Rights are not looked at: the processor has executed from there. */
uint64_t walk_linear(const struct space *space, uint64_t cr3, uint64_t linear);

#endif
