/* Gives out the machine's memory, once: L0's own, pools, partitions. */
#ifndef MH_PLACE_H
#define MH_PLACE_H

#include "boot/multiboot.h"
#include "memory/layout.h"

/* Read modules and layout, fill in the partitions' ranges. Panics if something is missing: nothing runs yet. */
void place_all(const struct multiboot *multiboot, struct layout *layout);
/* The proof of memory/check.h over all partitions as they are now. */
void check_or_panic(void);

#endif
