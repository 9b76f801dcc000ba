/* Hostile input for each parser, by libFuzzer; FUZZ says which. What is checked is what ASan and UBSan see, and that
 * what is accepted keeps its bounds. */
#include "check.h"

#include <string.h>

#include "channel/frame.h"
#include "devices/decode.h"
#include "memory/layout.h"
#include "monitor/consent.h"
#include "partition/linux.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#if FUZZ == 1
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct receiver receiver;
    static struct frame frame;
    static uint8_t again[FRAME_SIZE];
    memset(&receiver, 0, sizeof(receiver));
    for (size_t i = 0; i < size; i++) {
        if (frame_receive(&receiver, bytes[i], &frame)) {
            size_t length = frame_write(&frame, again); /* what is read is written the same */
            CHECK(i + 1 >= length && memcmp(again, bytes + i + 1 - length, length) == 0);
        }
        CHECK(receiver.count < FRAME_SIZE);
    }
    return 0;
}
#elif FUZZ == 2
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct layout layout;
    bool good = layout_read(&layout, (const char *)bytes, size);
    CHECK(good == (layout.wrong_line == 0) && layout.count <= MAX_PARTITIONS);
    for (unsigned i = 0; good && i < layout.count; i++) {
        const struct wanted *wanted = &layout.partitions[i];
        CHECK(wanted->cores >= 1 && wanted->cores <= MAX_CORES && wanted->device_count <= MAX_DEVICES);
        CHECK(wanted->memory % LARGE_SIZE == 0 && wanted->name[0] != '\0' && strlen(wanted->cmdline) < CMDLINE_SIZE);
    }
    return 0;
}
#elif FUZZ == 3
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct access access;
    if (size <= 15 && decode(bytes, (unsigned)size, &access)) {
        CHECK(access.length >= 2 && access.length <= size && access.number < 16);
        CHECK(access.size == 1 || access.size == 2 || access.size == 4 || access.size == 8);
    }
    return 0;
}
#elif FUZZ == 4
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct consent consent;
    if (consent_read(&consent, bytes, size)) {
        CHECK(size >= CONSENT_STATEMENT && consent.name[0] != 0 && consent.name[CONSENT_NAME - 1] == 0);
        CHECK(consent.pages > 0 && consent.page + consent.pages <= 1ull << 36);
    }
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    enum { MEMORY = 4 << 20 };
    static uint8_t *guest;
    struct kernel_image kernel;
    guest = guest == NULL ? malloc(MEMORY) : guest;
    uint64_t initrd = size > 0 ? bytes[0] * 4096u : 0;
    if (kernel_read(&kernel, bytes, size, MEMORY, initrd) == NULL) {
        CHECK(kernel_load(&kernel, guest, MEMORY, initrd) <= MEMORY - initrd);
    }
    return 0;
}
#endif
