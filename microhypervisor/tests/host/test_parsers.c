#include "check.h"
#include "devices/decode.h"
#include "lib/format.h"
#include "memory/layout.h"
#include "partition/entry.h"
#include "partition/linux.h"

void test_format(void)
{
    char text[16];
    CHECK(format_to(text, sizeof(text), "%s %u 0x%x%%", "a", (uint64_t)120, (uint64_t)0xfe) == 11);
    CHECK(same_text(text, "a 120 0xfe%"));
    CHECK(format_to(text, 4, "%s", "abcdef") == 3 && same_text(text, "abc"));
    CHECK(format_to(text, sizeof(text), "%u", UINT64_MAX) == 15); /* cut, and ended */
    CHECK(format_to(text, sizeof(text), "a%d%s") == 1); /* a pattern of another kind is not read on */
}

static bool reads(struct layout *layout, const char *text)
{
    return layout_read(layout, text, strlen(text));
}

#define GOOD "partition a\ncores 2\nmemory 256\nkernel k\n"
#define NOBODY "0000000000000000000000000000000000000000000000000000000000000000"
#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

void test_layout(void)
{
    static struct layout layout;
    CHECK(reads(&layout, "# two\n\n" GOOD "device 00:03.0\ncmdline  a=b c \npartition b\ncores 1\n  memory\t128\nkernel k\n"
                         "initrd i\ntenant " KEY "\nstart asked\nconsole shown"));
    CHECK(layout.count == 2 && layout.partitions[0].cores == 2 && layout.partitions[0].memory == 256ull << 20);
    CHECK(layout.partitions[0].devices[0] == 0x18 && layout.partitions[0].device_count == 1);
    CHECK(same_text(layout.partitions[0].cmdline, "a=b c") && same_text(layout.partitions[1].name, "b"));
    CHECK(layout.partitions[1].console_shown && !layout.partitions[0].console_shown);
    CHECK(layout.partitions[1].starts_asked && !layout.partitions[0].starts_asked);
    CHECK(same_text(layout.partitions[1].initrd, "i"));
    CHECK(layout.partitions[1].has_tenant && layout.partitions[1].tenant[31] == 0xff && !layout.partitions[0].has_tenant);
    static const struct {
        const char *text;
        unsigned line;
    } wrong[] = {
        {"", 1},
        {"cores 1\n", 1},
        {"partition A\n", 1},
        {"partition abcdefghijklmnop\n", 1},
        {"partition a\ncores 0\n", 2},
        {"partition a\ncores 9\n", 2},
        {"partition a\ncores 1x\n", 2},
        {"partition a\ncores 00000000000000001\n", 2},
        {"partition a\ncores\n", 2},
        {"partition a\nmemory 127\n", 2},
        {"partition a\nmemory 129\n", 2},
        {"partition a\nmemory 99999999\n", 2},
        {"partition a\ncores 1\nmemory 128\n", 4},
        {GOOD "partition a\n", 5},
        {GOOD "unknown 1\n", 5},
        {GOOD "console hidden\n", 5},
        {GOOD "start later\n", 5},
        {GOOD "device 00:03.0\ndevice 00:04.0\ndevice 00:05.0\ndevice 00:06.0\ndevice 00:07.0\ndevice 00:08.0\n", 10},
        {GOOD "cmdline \x01\n", 5},
        {GOOD "tenant " KEY "0\n", 5},
        {GOOD "tenant g" KEY "\n", 5},
        {GOOD "tenant 0123\n", 5},
        {GOOD "tenant " NOBODY "\n", 5},
        {GOOD "tenant " KEY "\ntenant " KEY "\n", 6},
        {GOOD "device 0:03.0\n", 5},
        {GOOD "device 00:20.0\n", 5},
        {GOOD "device 00:03.8\n", 5},
        {GOOD "device 0g:03.0\n", 5},
        {GOOD "device 00:03.0\ndevice 00:03.0\n", 7},
        {GOOD "device 00:03.0\npartition b\ncores 1\nmemory 128\nkernel k\ndevice 00:03.0\n", 11},
    };
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        CHECK(!reads(&layout, wrong[i].text));
        CHECK(layout.wrong_line == wrong[i].line);
    }
}

static bool decodes(struct access *access, const char *bytes, unsigned count)
{
    return decode((const uint8_t *)bytes, count, access);
}

void test_decode(void)
{
    struct access a;
    CHECK(decodes(&a, "\x89\xb7\x00\xd0\x5f\xff", 6)); /* mov %esi, -0xa03000(%rdi) */
    CHECK(a.write && !a.immediate && a.size == 4 && a.number == 6 && a.length == 6);
    CHECK(decodes(&a, "\xc7\x04\x25\xb0\xd0\x5f\xff\x00\x00\x00\x00", 11)); /* movl $0, 0xffffffffff5fd0b0 */
    CHECK(a.write && a.immediate && a.value == 0 && a.length == 11);
    CHECK(decodes(&a, "\x44\x8b\x48\x10", 4)); /* mov 0x10(%rax), %r9d */
    CHECK(!a.write && a.number == 9 && a.size == 4 && a.length == 4);
    CHECK(decodes(&a, "\x0f\xb6\x02", 3) && a.size == 1 && a.width == 4); /* movzbl (%rdx), %eax */
    CHECK(decodes(&a, "\x0f\xb7\x02", 3) && a.size == 2 && a.width == 4);
    CHECK(decodes(&a, "\x66\xc7\x00\x34\x12", 5) && a.size == 2 && a.value == 0x1234);
    CHECK(decodes(&a, "\x48\x89\x05\x00\x00\x00\x00", 7) && a.size == 8); /* relative to rip */
    CHECK(decodes(&a, "\xc6\x44\x0d\x08\x7f", 5) && a.size == 1 && a.value == 0x7f);
    CHECK(decodes(&a, "\x40\x88\x30", 3) && a.size == 1 && a.number == 6);
    CHECK(decodes(&a, "\x3e\x66\x3e\x66\x66\x89\x02", 7) && a.size == 2 && a.length == 7); /* prefixes, in any number */
    CHECK(!decodes(&a, "\x66\x66\x66", 3));      /* nothing but prefixes */
    CHECK(!decodes(&a, "\x88\x20", 2));          /* %ah */
    CHECK(!decodes(&a, "\x89\xc0", 2));          /* no memory */
    CHECK(!decodes(&a, "\xc7\x08\x00\x00\x00\x00", 6)); /* not MOV */
    CHECK(!decodes(&a, "\xa4", 1) && !decodes(&a, "\xf3\xa4", 2) && !decodes(&a, "\x0f\x11\x00", 3));
    for (unsigned cut = 0; cut < 11; cut++) {
        CHECK(!decodes(&a, "\xc7\x04\x25\xb0\xd0\x5f\xff\x00\x00\x00\x00", cut));
    }
}

#define KERNEL_SIZE 0x8000

static uint8_t *sound_kernel(void)
{
    static uint8_t image[KERNEL_SIZE];
    memset(image, 0, sizeof(image));
    image[0x1f1] = 3;
    store16(image + 0x1fe, 0xaa55);
    image[0x201] = 0x66;
    memcpy(image + 0x202, "HdrS", 4);
    store16(image + 0x206, 0x20f);
    image[0x211] = 1;
    store64(image + 0x258, 0x1000000);
    store32(image + 0x260, 0x100000);
    image[4 * 512] = 0x5a; /* the first byte of its code */
    return image;
}

static void test_refused_kernels(void)
{
    struct kernel_image kernel;
    const uint64_t memory = 0x2000000;
    uint8_t *image = sound_kernel();
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0x1000) == NULL);
    for (uint64_t cut = 0; cut <= 4 * 512; cut++) { /* no byte beyond the cut is read: ASan says so */
        uint8_t *part = malloc(cut + 1);
        memcpy(part, image, cut);
        CHECK(kernel_read(&kernel, part, cut, memory, 0) != NULL);
        free(part);
    }
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, 0x1080000, 0) != NULL);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0xf80000) != NULL);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, UINT64_MAX) != NULL);
    store64(sound_kernel() + 0x258, 0xfffff000);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0) != NULL);
    store64(sound_kernel() + 0x258, 0x1001000000);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0) != NULL);
    store64(sound_kernel() + 0x258, 0x8000); /* over its own parameters */
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0) != NULL);
    store32(sound_kernel() + 0x260, 0xffffffff);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0) != NULL);
    store16(sound_kernel() + 0x206, 0x204);
    CHECK(kernel_read(&kernel, image, KERNEL_SIZE, memory, 0) != NULL);
}

void test_linux(void)
{
    test_refused_kernels();
    struct kernel_image kernel;
    const uint64_t memory = 0x2000000;
    uint8_t *guest = calloc(1, memory);
    CHECK(kernel_read(&kernel, sound_kernel(), KERNEL_SIZE, memory, 0x1800) == NULL);
    CHECK(kernel_load(&kernel, guest, memory, 0x1800) == 0x1ffe000);
    const uint8_t *parameters = guest + GUEST_BOOT_PARAMS;
    CHECK(guest[0x1000000] == 0x5a && parameters[0x210] == 0xff);
    CHECK(load32(parameters + 0x218) == 0x1ffe000 && load32(parameters + 0x21c) == 0x1800);
    CHECK(load32(parameters + 0x228) == GUEST_CMDLINE && load32(parameters + 0x70) == GUEST_ACPI);
    CHECK(parameters[0x1e8] == 3 && load32(parameters + 0x2d0 + 40) == 0x100000);
    free(guest);
}
