#include "check.h"
#include "cpu/msr.h"
#include "devices/apic.h"
#include "devices/iommu.h"
#include "devices/msix.h"
#include "devices/vapic.h"
#include "memory/physical.h"
#include "partition/core.h"

static struct partition partition;
static struct core members[2];

/* What vapic.c calls of the machine; only what it decides is tested here. */
void core_order(struct core *core, enum order order)
{
    core->orders |= order;
}

void apic_send(uint32_t apic_id, uint32_t command)
{
    for (unsigned i = 0; i < 2; i++) {
        if (members[i].apic_id == apic_id) {
            members[i].sipi_vector = (uint8_t)command;
            return;
        }
    }
    CHECK(!"an interrupt left the partition");
}

static void make(void)
{
    memset(&partition, 0, sizeof(partition));
    memset(members, 0, sizeof(members));
    partition.core_count = 2;
    for (unsigned i = 0; i < 2; i++) {
        members[i].apic_id = 4 + i;
        members[i].index = i;
        members[i].partition = &partition;
        partition.cores[i] = &members[i];
    }
}

static void test_targets(void)
{
    make();
    struct core *core = &members[0];
    CHECK(ipi_targets(core, 1u << 18) == 1 && ipi_targets(core, 2u << 18) == 3 && ipi_targets(core, 3u << 18) == 2);
    for (uint32_t id = 0; id < 256; id++) {
        core->apic_destination = id << 24;
        uint32_t wanted = id == 4 ? 1 : id == 5 ? 2 : id == 255 ? 3 : 0;
        CHECK(ipi_targets(core, 0) == wanted);
    }
    members[0].apic_logical = 1u << 24; /* what every kernel believes */
    members[1].apic_logical = 2u << 24;
    core->apic_destination = 3u << 24;
    CHECK(ipi_targets(core, 0x800) == 3);
    core->apic_destination = 4u << 24;
    CHECK(ipi_targets(core, 0x800) == 0);
}

static void test_commands(void)
{
    make();
    struct core *core = &members[0];
    core->apic_destination = 5u << 24;
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x40f1) && members[1].sipi_vector == 0xf1 && members[1].orders == 0);
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x4500) && members[1].orders == ORDER_INIT);
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x4699) && members[1].orders == (ORDER_INIT | ORDER_SIPI));
    CHECK(members[1].sipi_vector == 0x99);
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x4400) && (members[1].orders & ORDER_NMI));
    CHECK(!vapic_write(core, APIC_ICR_LOW, 0x4200));                               /* SMI */
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x4003) && members[1].sipi_vector == 0x99); /* an illegal vector */
    core->apic_destination = 9u << 24;
    CHECK(vapic_write(core, APIC_ICR_LOW, 0x40f1)); /* somebody else's core: nobody */
    CHECK(members[0].orders == 0);
}

void test_vapic(void)
{
    test_targets();
    test_commands();
    CHECK(local_vector(0x200ec) == 0x200ec && local_vector(0x10700) == APIC_MASKED);
    CHECK(local_vector(0x00400) == APIC_MASKED && local_vector(0x00200) == APIC_MASKED && local_vector(5) == APIC_MASKED);
    CHECK(msix_allowed(&partition, 0, 0xfee04000) && msix_allowed(&partition, 0, 0xfee05000));
    CHECK(!msix_allowed(&partition, 0, 0xfee06000) && !msix_allowed(&partition, 0, 0xfee04004));
    CHECK(!msix_allowed(&partition, 0, 0xfee04008) && !msix_allowed(&partition, 0, 0x1000));
    CHECK(msix_allowed(&partition, 1, 0) && !msix_allowed(&partition, 1, 1));
    CHECK(msix_allowed(&partition, 2, 0x41) && !msix_allowed(&partition, 2, 0x441) && !msix_allowed(&partition, 2, 2));
}

static bool direct(const uint64_t *map, uint32_t msr, bool write)
{
    int bit = msr_bit(msr) + write;
    return !(map[bit / 64] >> (bit % 64) & 1);
}

void test_msr(void)
{
    static uint64_t map[MSRPM_WORDS], l1[MSRPM_WORDS];
    msr_permissions(map);
    unsigned readable = 0, writable = 0;
    for (uint32_t i = 0; i < 3 * 0x2000; i++) {
        uint32_t msr = (i / 0x2000 == 0 ? 0 : i / 0x2000 == 1 ? 0xc0000000 : 0xc0010000) + i % 0x2000;
        readable += direct(map, msr, false);
        writable += direct(map, msr, true);
    }
    CHECK(readable == 14 && writable == 12); /* the whole of what partitions have directly */
    CHECK(direct(map, 0xc0000101, true) && direct(map, 0x10, false) && !direct(map, 0x10, true));
    CHECK(direct(map, 0x1d9, false) && !direct(map, 0x1d9, true));
    CHECK(!direct(map, MSR_EFER, false) && !direct(map, MSR_APIC_BASE, true) && !direct(map, MSR_VM_HSAVE_PA, true));
    CHECK(!direct(map, 0xc0010010, false) && !direct(map, 0xc0010015, true) && !direct(map, 0xc0010020, true));
    CHECK(msr_bit(0x2000) < 0 && msr_bit(0xc0002000) < 0 && msr_bit(0xc0011fff) == 0xbffe && msr_bit(0xffffffff) < 0);
    memset(l1, 0, sizeof(l1)); /* L1 lets its L2 have everything: L2 gets what L1 has */
    memset(map, 0xff, sizeof(map));
    msr_permissions_nested(map, l1);
    CHECK(direct(map, 0xc0000101, true) && !direct(map, MSR_EFER, false) && !direct(map, 0x10, true));
    memset(l1, 0xff, sizeof(l1));
    msr_permissions_nested(map, l1);
    CHECK(!direct(map, 0xc0000101, false));
}

const uint8_t *table_find(const char *signature);
uint64_t table_iommu(void);

uint64_t table_iommu(void)
{
    return ARENA_START;
}

void test_iommu(void)
{
    uint64_t entry[4];
    iommu_entry(entry, NOWHERE, 0);
    CHECK(entry[0] == 3 && entry[1] == 0); /* valid, and nothing is allowed */
    iommu_entry(entry, 0x1234000, 2);
    CHECK(entry[0] == (0x1234803ull | 3ull << 61) && entry[1] == 2);
    make();
    arena_clear();
    partition_count = 1;
    partitions[0].device_count = 1;
    partitions[0].devices[0].address = 0x18;
    partitions[0].space.root = 0x1234000;
    CHECK(iommu_start());
    const uint64_t *registers = at_physical(ARENA_START), (*table)[4] = (void *)(registers[0] & ~0xfffull);
    CHECK((registers[0] & 0x1ff) == 511 && registers[3] == 1);
    for (unsigned i = 0; i < 0x10000; i++) {
        CHECK(table[i][0] == (i == 0x18 ? entry[0] : 3));
    }
}
