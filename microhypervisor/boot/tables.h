/* The machine's own ACPI tables, as far as L0 looks at them. The firmware is trusted. */
#ifndef MH_TABLES_H
#define MH_TABLES_H

#include "lib/base.h"

/* Where the table with such a signature is, or NULL. */
const uint8_t *table_find(const char *signature);
/* The ids of the local APICs that there are, at most so many. How many they are. */
unsigned table_apic_ids(uint8_t ids[], unsigned most);
/* Whether there are no timers and interrupt controllers of old. */
bool table_says_reduced(void);
/* The physical address of the first AMD IOMMU's registers, or NOWHERE (its specification, 5.2: IVRS). */
uint64_t table_iommu(void);

#endif
