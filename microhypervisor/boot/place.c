#include "boot/place.h"

#include "devices/apic.h"
#include "devices/tis.h"
#include "lib/log.h"
#include "memory/check.h"
#include "memory/physical.h"
#include "partition/partition.h"
#include "partition/pool.h"

#define MAX_MODULES 16
#define MAX_REGIONS 16

struct module {
    char name[NAME_SIZE];
    struct range at;
};

static struct module modules[MAX_MODULES];
static unsigned module_count;
static struct range regions[MAX_REGIONS]; /* memory that is not given out yet */
static unsigned region_count;
static struct range l0[4 + MAX_PARTITIONS];
static unsigned l0_count;

extern const uint8_t image_end[];

/* A module's name is the last word of its text: QEMU puts the file's name before it. */
static void read_modules(const struct multiboot *multiboot)
{
    const struct multiboot_module *module = (const void *)(uint64_t)multiboot->modules;
    for (unsigned i = 0; i < multiboot->module_count && module_count < MAX_MODULES; i++) {
        const char *text = (const char *)(uint64_t)module[i].text, *word = text;
        for (; *text != '\0'; text++) {
            word = *text == ' ' ? text + 1 : word;
        }
        if (strlen(word) >= NAME_SIZE) {
            panic("a boot module's name is too long");
        }
        memcpy(modules[module_count].name, word, strlen(word) + 1);
        modules[module_count++].at = (struct range){module[i].start, module[i].end};
    }
}

static struct range find_module(const char *name)
{
    for (unsigned i = 0; i < module_count; i++) {
        if (same_text(modules[i].name, name)) {
            return modules[i].at;
        }
    }
    panic("there is no boot module called %s", name);
}

/* All memory above L0 and its modules. */
static void read_map(const struct multiboot *multiboot)
{
    uint64_t l0_end = (uint64_t)image_end;
    for (unsigned i = 0; i < module_count; i++) {
        l0_end = modules[i].at.end > l0_end ? modules[i].at.end : l0_end;
    }
    l0_end = round_up(l0_end, PAGE_SIZE);
    l0[l0_count++] = (struct range){0, l0_end};
    l0[l0_count++] = (struct range){APIC_ADDRESS, APIC_ADDRESS + PAGE_SIZE};
    l0[l0_count++] = (struct range){IOAPIC_ADDRESS, IOAPIC_ADDRESS + PAGE_SIZE};
    l0[l0_count++] = (struct range){TIS_ADDRESS, TIS_ADDRESS + TIS_SIZE};
    uint64_t at = multiboot->map, end = at + multiboot->map_length;
    while (at < end && region_count < MAX_REGIONS) {
        const struct multiboot_region *region = (const void *)at;
        struct range range = {region->start, region->start + region->length};
        range.start = range.start < l0_end ? l0_end : range.start;
        if (region->kind == 1 && range.start < range.end) {
            regions[region_count++] = range;
        }
        at += region->size + 4;
    }
}

static struct range take(uint64_t size, uint64_t alignment)
{
    for (unsigned i = 0; i < region_count; i++) {
        uint64_t start = round_up(regions[i].start, alignment);
        if (start < regions[i].end && size <= regions[i].end - start) {
            regions[i].start = start + size;
            return (struct range){start, start + size};
        }
    }
    panic("there is not enough memory for the layout");
}

void place_all(const struct multiboot *multiboot, struct layout *layout)
{
    read_modules(multiboot);
    read_map(multiboot);
    struct range text = find_module("layout");
    if (!layout_read(layout, at_physical(text.start), text.end - text.start)) {
        panic("line %u of the layout is wrong", (uint64_t)layout->wrong_line);
    }
    for (unsigned i = 0; i < layout->count; i++) {
        struct partition *partition = &partitions[partition_count++];
        partition->wanted = &layout->partitions[i];
        memcpy(partition->name, partition->wanted->name, NAME_SIZE);
        memcpy(partition->next_tenant, partition->wanted->tenant, TENANT_SIZE);
        partition->kernel = find_module(partition->wanted->kernel);
        if (partition->wanted->initrd[0] != '\0') {
            partition->initrd = find_module(partition->wanted->initrd);
        }
        partition->pool_range = take(POOL_BASE + POOL_CORE * partition->wanted->cores, PAGE_SIZE);
        l0[l0_count++] = partition->pool_range;
    }
    for (unsigned i = 0; i < partition_count; i++) {
        partitions[i].memory = take(partitions[i].wanted->memory, LARGE_SIZE);
    }
}

void check_or_panic(void)
{
    static const char *const names[] = {"", "maps L0", "shares a page with", "maps what is not its own", "has a bad table"};
    const struct space *spaces[MAX_PARTITIONS];
    for (unsigned i = 0; i < partition_count; i++) {
        spaces[i] = &partitions[i].space;
    }
    struct finding found = check_apart(spaces, partition_count, l0, l0_count);
    if (found.what != APART) {
        panic("partition %s %s: guest 0x%x, host 0x%x, partition %s", partitions[found.partition].name, names[found.what],
              found.guest, found.host, partitions[found.other].name);
    }
    log_line("self-check: %u pages, none in two partitions or in L0", found.pages);
}
