/* From reset to the first partition, in order: the one place to read first. */
#include "boot/cores.h"
#include "boot/multiboot.h"
#include "boot/place.h"
#include "boot/tables.h"
#include "boot/trap.h"
#include "channel/channel.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "devices/apic.h"
#include "devices/iommu.h"
#include "devices/pci.h"
#include "devices/serial.h"
#include "lib/log.h"
#include "memory/check.h"
#include "monitor/monitor.h"
#include "partition/control.h"
#include "partition/core.h"

#define LINE_CHANNEL 3 /* the second serial port's, at the IO-APIC */

uint64_t tsc_khz;
static uint32_t monitor_apic_id;
static struct layout layout;
static uint64_t msrpm[MSRPM_WORDS] __attribute__((aligned(4096)));
static uint64_t iopm[3 * 512] __attribute__((aligned(4096)));

void boot_main(uint32_t multiboot);

static void require_processor(void)
{
    struct cpuid extended = cpuid_read(0x80000001, 0), svm = cpuid_read(0x8000000a, 0);
    if (!(extended.c & 4) || !(svm.d & 1)) {
        panic("this processor has no SVM with nested paging");
    }
    if (!(extended.d & (1u << 26))) {
        panic("this processor has no pages of 1 GiB");
    }
    if (!(cpuid_read(1, 0).c & (1u << 26))) {
        panic("this processor has no XSAVE");
    }
    if (!(cpuid_read(1, 0).c & (1u << 30))) {
        panic("this processor has no RDRAND: there could be no keys and no challenges");
    }
    if (msr_read(MSR_VM_CR) & 0x10) {
        panic("the firmware has switched SVM off"); /* APM 2, 15.30.1: SVMDIS */
    }
}

/* How far the clock goes while the PIT's third counter (8254), which the speaker's port starts and shows, runs out. */
static uint64_t measure_tsc_once(uint64_t ticks)
{
    out8(0x61, (in8(0x61) & ~2u) | 1);
    out8(0x43, 0xb0);
    out8(0x42, ticks & 0xff);
    uint64_t start = tsc_read();
    out8(0x42, (uint8_t)(ticks >> 8)); /* it begins here */
    while (!(in8(0x61) & 0x20)) {
    }
    return tsc_read() - start;
}

/* The shortest of several: whatever holds this core up, under an emulator or in firmware, makes one longer. */
static uint64_t measure_tsc(void)
{
    uint64_t least = UINT64_MAX;
    if (table_says_reduced()) { /* no PIT: whoever is below us tells, as we do ourselves */
        uint64_t told = cpuid_read(CPUID_CLOCK, 0).a;
        if (told == 0) {
            panic("there is no timer, and nobody tells how fast the clock is");
        }
        return told;
    }
    for (unsigned i = 0; i < 5; i++) {
        uint64_t took = measure_tsc_once(1193182 / 100); /* 10 ms */
        least = took < least ? took : least;
    }
    return least / 10;
}

static void assign_cores(void)
{
    unsigned wanted = 0, next = 0;
    for (unsigned i = 0; i < layout.count; i++) {
        wanted += layout.partitions[i].cores;
    }
    if (cores_start(wanted) < wanted) {
        panic("the layout wants %u cores besides the monitor's, and %u came", (uint64_t)wanted, (uint64_t)core_count);
    }
    for (unsigned i = 0; i < partition_count; i++) {
        struct partition *partition = &partitions[i];
        for (; partition->core_count < partition->wanted->cores; partition->core_count++) {
            struct core *core = &cores[next++];
            core->index = partition->core_count;
            partition->cores[partition->core_count] = core;
        }
    }
    for (unsigned i = 0; i < partition_count; i++) {
        for (unsigned j = 0; j < partitions[i].core_count; j++) {
            __atomic_store_n(&partitions[i].cores[j]->partition, &partitions[i], __ATOMIC_RELEASE);
        }
    }
}

static void adopt_devices(struct partition *partition)
{
    for (unsigned i = 0; i < partition->wanted->device_count; i++) {
        uint16_t address = partition->wanted->devices[i];
        if (!pci_adopt(&partition->devices[i], address)) {
            panic("partition %s: device 0x%x is not there, or cannot be given away", partition->name, (uint64_t)address);
        }
        partition->device_count++;
    }
}

static void build(void)
{
    for (unsigned i = 0; i < partition_count; i++) {
        partitions[i].msrpm = msrpm;
        partitions[i].iopm = iopm;
        adopt_devices(&partitions[i]);
        const char *why = partition_build(&partitions[i]);
        if (why != NULL) {
            panic("partition %s: %s", partitions[i].name, why);
        }
    }
}

/* A device without an IOMMU before it reads and writes what it likes. */
static void confine_devices(void)
{
    bool confined = iommu_start();
    for (unsigned i = 0; i < partition_count; i++) {
        if (partitions[i].device_count > 0 && !confined) {
            panic("partition %s has devices, and there is no IOMMU to confine them", partitions[i].name);
        }
    }
    log_line(confined ? "devices are confined by the IOMMU" : "there is no IOMMU, and no device is given away");
}

static void monitor(void)
{
    for (;;) {
        channel_serve();
        for (unsigned i = 0; i < partition_count; i++) {
            if (atomic_get(&partitions[i].state) == RESTARTING) {
                partition_start(&partitions[i]);
            }
        }
        monitor_sleep();
    }
}

void monitor_wake(void)
{
    apic_send(monitor_apic_id, APIC_ASSERT | VECTOR_WAKE);
}

void boot_main(uint32_t multiboot)
{
    serial_init(SERIAL_LOG, false);
    log_line("supercloud micro-hypervisor");
    trap_init();
    require_processor();
    out8(0x21, 0xff); /* the interrupt controllers of old: all lines masked */
    out8(0xa1, 0xff);
    apic_init();
    monitor_apic_id = apic_read(APIC_ID) >> 24;
    tsc_khz = measure_tsc();
    msr_permissions(msrpm);
    memset(iopm, 0xff, sizeof(iopm));
    place_all((const struct multiboot *)(uint64_t)multiboot, &layout);
    pci_silence();
    build();
    check_or_panic();
    confine_devices();
    assign_cores();
    monitor_begin(table_find("TPM2") != NULL);
    serial_init(SERIAL_CHANNEL, true);
    ioapic_route(LINE_CHANNEL, monitor_apic_id, VECTOR_CHANNEL);
    log_line("clock %u kHz, %u partitions, %u cores besides the monitor's", tsc_khz, (uint64_t)partition_count,
             (uint64_t)core_count);
    for (unsigned i = 0; i < partition_count; i++) {
        if (!partitions[i].wanted->starts_asked) {
            partition_start(&partitions[i]);
        }
    }
    monitor();
}
