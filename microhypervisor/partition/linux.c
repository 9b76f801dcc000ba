#include "partition/linux.h"

#include "partition/entry.h"

/* Offsets into the setup header, which begins at SETUP in the image and in the boot parameters alike. */
enum {
    RSDP = 0x70,
    MAP_ENTRIES = 0x1e8,
    SETUP = 0x1f1,
    BOOT_FLAG = 0x1fe,
    HEADER_LENGTH = 0x201,
    MAGIC = 0x202,
    VERSION = 0x206,
    LOADER = 0x210,
    FLAGS = 0x211,
    CODE32 = 0x214,
    INITRD = 0x218,
    INITRD_SIZE = 0x21c,
    CMDLINE = 0x228,
    PREFERRED = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END = 0x268,
    MAP = 0x2d0,
};

#define LOADED_HIGH 1
#define OLDEST 0x20a
#define MAP_RAM 1
#define MAP_RESERVED 2

static uint64_t initrd_place(uint64_t memory, uint64_t initrd)
{
    return (memory - initrd) & ~(PAGE_SIZE - 1);
}

const char *kernel_read(struct kernel_image *kernel, const uint8_t *bytes, uint64_t size, uint64_t memory, uint64_t initrd)
{
    if (size < HEADER_END + 1 || load16(bytes + BOOT_FLAG) != 0xaa55 || memcmp(bytes + MAGIC, "HdrS", 4) != 0) {
        return "its kernel is no Linux image";
    }
    if (load16(bytes + VERSION) < OLDEST || !(bytes[FLAGS] & LOADED_HIGH)) {
        return "its kernel speaks an old boot protocol";
    }
    uint64_t sectors = bytes[SETUP] == 0 ? 4 : bytes[SETUP];
    kernel->bytes = bytes;
    kernel->size = size;
    kernel->code = (sectors + 1) * 512;
    if (kernel->code >= size) {
        return "its kernel is cut off";
    }
    kernel->code_size = size - kernel->code;
    kernel->load = load32(bytes + PREFERRED);
    kernel->needs = load32(bytes + INIT_SIZE);
    kernel->needs = kernel->needs > kernel->code_size ? kernel->needs : kernel->code_size;
    if (kernel->load < 0x100000 || (kernel->load & (PAGE_SIZE - 1)) || load32(bytes + PREFERRED + 4) != 0) {
        return "its kernel wants to be where it cannot be";
    }
    if (initrd >= memory || !range_holds((struct range){0, initrd_place(memory, initrd)}, kernel->load, kernel->needs)) {
        return "its memory is too small";
    }
    return NULL;
}

static void add_memory(uint8_t *parameters, uint64_t start, uint64_t end, uint32_t kind)
{
    uint8_t *entry = parameters + MAP + 20 * parameters[MAP_ENTRIES]++;
    store64(entry, start);
    store64(entry + 8, end - start);
    store32(entry + 16, kind);
}

uint64_t kernel_load(const struct kernel_image *kernel, uint8_t *guest, uint64_t memory, uint64_t initrd)
{
    uint8_t *parameters = guest + GUEST_BOOT_PARAMS;
    uint64_t header_end = MAGIC + kernel->bytes[HEADER_LENGTH];
    header_end = header_end > MAP ? MAP : header_end < HEADER_END ? HEADER_END : header_end;
    header_end = header_end > kernel->code ? kernel->code : header_end;
    memset(parameters, 0, PAGE_SIZE);
    memcpy(parameters + SETUP, kernel->bytes + SETUP, header_end - SETUP);
    parameters[LOADER] = 0xff; /* none that has a number */
    store32(parameters + CODE32, (uint32_t)kernel->load);
    store32(parameters + CMDLINE, GUEST_CMDLINE);
    store64(parameters + RSDP, GUEST_ACPI);
    store32(parameters + INITRD, initrd == 0 ? 0 : (uint32_t)initrd_place(memory, initrd));
    store32(parameters + INITRD_SIZE, (uint32_t)initrd);
    add_memory(parameters, 0, 0xa0000, MAP_RAM);
    add_memory(parameters, GUEST_ACPI, 0x100000, MAP_RESERVED);
    add_memory(parameters, 0x100000, memory, MAP_RAM);
    memcpy(guest + kernel->load, kernel->bytes + kernel->code, kernel->code_size);
    return initrd_place(memory, initrd);
}
