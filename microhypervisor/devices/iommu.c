#include "devices/iommu.h"

#include "boot/tables.h"
#include "memory/physical.h"

#define DEVICES 0x10000 /* every bus, slot and function */

enum { DEVICE_TABLE = 0x0000, CONTROL = 0x0018 }; /* registers, [IOMMU] 3.4 */

#define CONTROL_ENABLE 1ull
#define ENTRY_VALID (1ull << 0)
#define ENTRY_TRANSLATES (1ull << 1)

static uint64_t table[DEVICES][4] __attribute__((aligned(4096)));

void iommu_entry(uint64_t entry[4], uint64_t root, unsigned domain)
{
    memset(entry, 0, 4 * sizeof(entry[0]));
    entry[0] = ENTRY_VALID | ENTRY_TRANSLATES; /* no levels, no rights: nothing (2.2.2.1) */
    if (root != NOWHERE) {
        entry[0] |= PTE_NEXT_LEVEL(NPT_LEVELS) | root | PTE_DMA_READ | PTE_DMA_WRITE;
        entry[1] = domain;
    }
}

bool iommu_start(void)
{
    uint64_t base = table_iommu();
    if (base == NOWHERE) {
        return false;
    }
    for (unsigned i = 0; i < DEVICES; i++) {
        iommu_entry(table[i], NOWHERE, 0);
    }
    for (unsigned i = 0; i < partition_count; i++) {
        for (unsigned d = 0; d < partitions[i].device_count; d++) {
            iommu_entry(table[partitions[i].devices[d].address], partitions[i].space.root, i + 1);
        }
    }
    volatile uint64_t *registers = at_physical(base);
    registers[DEVICE_TABLE / 8] = (uint64_t)table | (sizeof(table) / PAGE_SIZE - 1);
    registers[CONTROL / 8] = CONTROL_ENABLE;
    return true;
}
