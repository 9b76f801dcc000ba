#ifndef MH_MSIX_H
#define MH_MSIX_H

#include "partition/partition.h"

/* Whether a word of an MSI-X entry (0 address, 1 its upper half, 2 data, 3 control) may be written by a partition:
 * fixed interrupts to its own cores, by their physical ids (APM 2, 16.11; PCI 3.0, 6.8.2). */
bool msix_allowed(const struct partition *partition, unsigned word, uint32_t value);

/* A write to guest memory that may be in the table of one of the partition's devices; what is not allowed is dropped. */
void msix_write(struct partition *partition, uint64_t guest, unsigned size, uint32_t value);

#endif
