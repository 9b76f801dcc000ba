/* The AMD IOMMU: what devices reach (AMD I/O Virtualization Technology specification [IOMMU], 2.2). A device reaches
 * its partition's memory by the partition's own nested tables; one that is nobody's reaches nothing. */
#ifndef MH_IOMMU_H
#define MH_IOMMU_H

#include "partition/partition.h"

/* One device's entry in the table: with the root of nested tables, or NOWHERE for nothing. */
void iommu_entry(uint64_t entry[4], uint64_t root, unsigned domain);

/* Switch it on with what each partition has been given. Nothing of it changes afterwards, so nothing that it remembers
 * is ever out of date. False: there is none. */
bool iommu_start(void);

#endif
