#ifndef MH_MMIO_H
#define MH_MMIO_H

#include "partition/partition.h"

/* L1 touched guest memory that is not mapped for that: its local APIC, an MSI-X table, or nothing at all (reading
 * gives ones, writing does nothing). False: it was no plain MOV, or no address for devices. */
bool mmio_access(struct core *core, uint64_t guest, uint64_t info);

#endif
