#include "boot/tables.h"

#include "memory/physical.h"

#define RSDT_OF 16 /* in the RSDP (ACPI 6.4, 5.2.5.3) */
#define HEADER 36
#define IVHD 48 /* where the IVRS has its first block */

static const uint8_t *find_rsdp(void)
{
    for (uint64_t at = 0xe0000; at < 0x100000; at += 16) { /* 5.2.5.1 */
        if (memcmp(at_physical(at), "RSD PTR ", 8) == 0) {
            return at_physical(at);
        }
    }
    return NULL;
}

const uint8_t *table_find(const char *signature)
{
    const uint8_t *rsdp = find_rsdp();
    if (rsdp == NULL) {
        return NULL;
    }
    const uint8_t *rsdt = at_physical(load32(rsdp + RSDT_OF));
    for (uint32_t at = HEADER; at + 4 <= load32(rsdt + 4); at += 4) {
        const uint8_t *table = at_physical(load32(rsdt + at));
        if (memcmp(table, signature, 4) == 0) {
            return table;
        }
    }
    return NULL;
}

uint64_t table_iommu(void)
{
    const uint8_t *ivrs = table_find("IVRS");
    if (ivrs == NULL || load32(ivrs + 4) < IVHD + 16) {
        return NOWHERE;
    }
    const uint8_t *block = ivrs + IVHD;
    bool is_iommu = block[0] == 0x10 || block[0] == 0x11 || block[0] == 0x40;
    return is_iommu ? load32(block + 8) | (uint64_t)load32(block + 12) << 32 : NOWHERE;
}
