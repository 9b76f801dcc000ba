/* What a partition does with its local APIC: reads go to the device, writes come here. Its interrupts and their ends
 * are its own; what would reach another core is looked at (APM 2, chapter 16). */
#ifndef MH_VAPIC_H
#define MH_VAPIC_H

#include "partition/partition.h"

/* Where an interprocessor interrupt goes, as a set of the partition's own cores, by index. 0: nowhere. */
uint32_t ipi_targets(const struct core *core, uint32_t command);

/* What is written to the device for a local vector table's entry: only fixed interrupts, the others stay masked. */
uint32_t local_vector(uint32_t value);

/* A 32-bit write at an offset into the page. False: it tries something that no partition may. */
bool vapic_write(struct core *core, uint64_t at, uint32_t value);

#endif
