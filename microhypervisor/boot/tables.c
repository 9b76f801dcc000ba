#include "boot/tables.h"

#include "memory/physical.h"

#define RSDT_OF 16 /* in the RSDP (ACPI 6.4, 5.2.5.3) */
#define XSDT_OF 24
#define HEADER 36
#define APICS 44 /* where the MADT has its first entry (5.2.12) */
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
    bool wide = load32(rsdp + RSDT_OF) == 0; /* there is the newer list alone, of addresses of 64 bits */
    const uint8_t *list = at_physical(wide ? load64(rsdp + XSDT_OF) : load32(rsdp + RSDT_OF));
    unsigned size = wide ? 8 : 4;
    for (uint32_t at = HEADER; at + size <= load32(list + 4); at += size) {
        const uint8_t *table = at_physical(wide ? load64(list + at) : load32(list + at));
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

unsigned table_apic_ids(uint8_t ids[], unsigned most)
{
    const uint8_t *madt = table_find("APIC");
    unsigned count = 0;
    for (uint32_t at = APICS; madt != NULL && at + 8 <= load32(madt + 4) && madt[at + 1] != 0; at += madt[at + 1]) {
        if (madt[at] == 0 && (madt[at + 4] & 1) && count < most) { /* a local APIC (5.2.12.2), enabled */
            ids[count++] = madt[at + 3];
        }
    }
    return count;
}

bool table_says_reduced(void)
{
    const uint8_t *fadt = table_find("FACP");
    return fadt != NULL && (load32(fadt + 112) & 1u << 20); /* 5.2.9: flags, HW_REDUCED_ACPI */
}
