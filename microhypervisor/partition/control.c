#include "partition/control.h"

#include "devices/acpi.h"
#include "devices/apic.h"
#include "devices/io.h"
#include "devices/pci.h"
#include "lib/format.h"
#include "lib/log.h"
#include "memory/physical.h"
#include "partition/core.h"
#include "partition/entry.h"
#include "partition/linux.h"
#include "partition/measure.h"
#include "partition/pool.h"

#define STOP_MS 5000

static uint64_t size_of(struct range range)
{
    return range.end - range.start;
}

/* What the partition may use as memory: all of it but the last page, which stands for its IO-APIC. */
static uint64_t usable(const struct partition *partition)
{
    return size_of(partition->memory) - PAGE_SIZE;
}

/* Everything of a device but its MSI-X table, which is read only: devices/msix.c writes it. */
static enum map_result map_device(struct space *space, const struct pci_device *device)
{
    for (unsigned i = 0; i < 6; i++) {
        for (uint64_t page = device->memory[i].start; page < device->memory[i].end; page += PAGE_SIZE) {
            struct range table = {device->msix.host, device->msix.host + device->msix.entries * 16};
            bool holds_table = device->msix.host != NOWHERE && range_overlaps(table, (struct range){page, page + PAGE_SIZE});
            enum map_result result = npt_map(space, page, page, PAGE_SIZE, IS_DEVICE | (holds_table ? 0 : MAY_WRITE));
            if (result != MAPPED) {
                return result;
            }
        }
    }
    return MAPPED;
}

static enum map_result map_all(struct partition *partition)
{
    struct space *space = &partition->space;
    uint64_t memory = usable(partition), start = partition->memory.start;
    enum map_result result = npt_map(space, 0, start, memory, MAY_WRITE | MAY_DMA);
    if (result == MAPPED) {
        result = npt_map(space, IOAPIC_ADDRESS, start + memory, PAGE_SIZE, MAY_WRITE);
    }
    if (result == MAPPED) {
        result = npt_map(space, APIC_ADDRESS, APIC_ADDRESS, PAGE_SIZE, MAY_READ | IS_DEVICE);
    }
    for (unsigned i = 0; i < partition->device_count && result == MAPPED; i++) {
        result = map_device(space, &partition->devices[i]);
    }
    return result;
}

const char *partition_build(struct partition *partition)
{
    struct space *space = &partition->space;
    frames_init(&partition->pool, pool_of_space(partition->pool_range));
    if (!space_init(space, &partition->pool)) {
        return "its pool is too small";
    }
    space->shown = APIC_ADDRESS;
    space->own[space->own_count++] = partition->memory;
    for (unsigned i = 0; i < partition->device_count; i++) {
        for (unsigned bar = 0; bar < 6; bar++) {
            if (size_of(partition->devices[i].memory[bar]) > 0) {
                if (space->own_count == SPACE_RANGES) {
                    return "its devices have too many ranges";
                }
                space->own[space->own_count++] = partition->devices[i].memory[bar];
            }
        }
    }
    switch (map_all(partition)) {
    case MAPPED:
        return NULL;
    case MAP_NO_FRAME:
        return "its pool is too small";
    default:
        return "its devices overlap with something";
    }
}

/* Linux on a machine with hardware-reduced ACPI and without EFI resets it by going where firmware begins. */
static void write_reset_vector(uint8_t *at)
{
    static const uint8_t code[] = {0xba, PORT_RESET & 0xff, PORT_RESET >> 8, /* mov $PORT_RESET, %dx */
                                   0xb0, 0x01, 0xee,                         /* mov $1, %al; out %al, %dx */
                                   0xf4};                                    /* hlt */
    memcpy(at, code, sizeof(code));
}

static const char *load(struct partition *partition)
{
    char cmdline[CMDLINE_SIZE + 64];
    uint8_t ids[MAX_CORES], *guest = at_physical(partition->memory.start);
    uint64_t memory = usable(partition), initrd = size_of(partition->initrd);
    struct kernel_image kernel;
    const char *why = kernel_read(&kernel, at_physical(partition->kernel.start), size_of(partition->kernel), memory, initrd);
    if (why != NULL) {
        return why;
    }
    /* There is no timer of known speed in a partition; its kernel is told the clock's. */
    format_to(cmdline, sizeof(cmdline), "%s tsc=reliable tsc_early_khz=%u", partition->wanted->cmdline, tsc_khz);
    memcpy(partition->tenant, partition->next_tenant, TENANT_SIZE); /* with what was in memory goes whoever had it */
    measure(partition, partition->wanted->cmdline);
    memset(guest, 0, size_of(partition->memory));
    uint64_t place = kernel_load(&kernel, guest, memory, initrd);
    memcpy(guest + place, at_physical(partition->initrd.start), initrd);
    memcpy(guest + GUEST_CMDLINE, cmdline, strlen(cmdline) + 1);
    for (unsigned i = 0; i < partition->core_count; i++) {
        ids[i] = (uint8_t)partition->cores[i]->apic_id;
    }
    acpi_write(guest + GUEST_ACPI, GUEST_ACPI, ids, partition->core_count);
    write_reset_vector(guest + GUEST_RESET_VECTOR);
    partition->entry = kernel.load;
    return NULL;
}

static bool cores_idle(const struct partition *partition)
{
    for (unsigned i = 0; i < partition->core_count; i++) {
        if (atomic_get(&partition->cores[i]->state) != CORE_IDLE || atomic_get(&partition->cores[i]->orders) != 0) {
            return false;
        }
    }
    return true;
}

static bool wait_idle(const struct partition *partition)
{
    for (uint64_t until = tsc_read() + STOP_MS * tsc_khz; tsc_read() < until; cpu_relax()) {
        if (cores_idle(partition)) {
            return true;
        }
    }
    return false;
}

const char *partition_start(struct partition *partition)
{
    if (atomic_get(&partition->state) == RUNNING) {
        return "it runs already";
    }
    if (!wait_idle(partition)) {
        return "a core of it does not stop";
    }
    for (unsigned i = 0; i < partition->device_count; i++) {
        pci_reset(&partition->devices[i]);
    }
    const char *why = load(partition);
    if (why != NULL) {
        lock_take(&partition->lock);
        format_to(partition->reason, sizeof(partition->reason), "%s", why);
        atomic_set(&partition->state, PARKED);
        lock_give(&partition->lock);
        log_line("partition %s: parked: %s", partition->name, why);
        return why;
    }
    partition->launches++;
    memset(partition->console.registers, 0, sizeof(partition->console.registers));
    partition->reason[0] = '\0';
    atomic_set(&partition->state, RUNNING);
    log_line("partition %s: starts, launch %u", partition->name, partition->launches);
    for (unsigned i = partition->core_count; i-- > 0;) { /* the first core last: it may call the others at once */
        core_order(partition->cores[i], ORDER_BEGIN);
    }
    return NULL;
}

const char *partition_stop(struct partition *partition, const char *reason)
{
    partition_leave(partition, reason);
    if (!wait_idle(partition)) {
        return "a core of it does not stop";
    }
    for (unsigned i = 0; i < partition->device_count; i++) {
        pci_reset(&partition->devices[i]);
    }
    return NULL;
}
