/* Hostile input for each parser, by libFuzzer; FUZZ says which. What is checked is what ASan and UBSan see, and that
 * what is accepted keeps its bounds. */
#include "check.h"

#include <string.h>

#include "channel/frame.h"
#include "channel/requests.h"
#include "devices/decode.h"
#include "lib/log.h"
#include "memory/layout.h"
#include "memory/physical.h"
#include "monitor/consent.h"
#include "monitor/monitor.h"
#include "monitor/quote.h"
#include "partition/control.h"
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
#elif FUZZ == 5
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
#elif FUZZ == 7
/* A TPM that answers whatever it likes: no answer of it leads L0 out of its own memory, and none makes a quote that is too long.
 * The input is of each answer a byte that says whether it is a success, its length (2), and what it says. */
static const uint8_t *input;
static size_t left, given;
static uint8_t answer[10];

static uint8_t next(void)
{
    if (left == 0) {
        return 0;
    }
    left--;
    return *input++;
}

uint8_t tis_read8(uint32_t at)
{
    if (at == 0) {
        return 0xa1; /* it is there, and is ours */
    }
    return given < sizeof(answer) ? answer[given++] : next();
}

uint32_t tis_read32(uint32_t at)
{
    return at == 0x18 ? 0x40d0 : 0x1014; /* it is always ready, and has an answer */
}

static void answer_anew(void)
{
    answer[8] = next() % 8 == 7; /* most are a success */
    answer[5] = next();
    answer[4] = next() % 8;
    given = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const uint8_t key[32], digest[32];
    uint8_t *quote = malloc(QUOTE_SIZE);
    input = bytes;
    left = size;
    quote_begin(key);
    CHECK(quote_take(digest, quote) <= QUOTE_SIZE && quote_take(digest, quote) <= QUOTE_SIZE);
    free(quote);
    return 0;
}
#else
/* Requests, however hostile, to a machine of three: one that runs for its tenant, one that its layout gave a tenant, and one that
 * stands still. Nobody's memory comes out, no launch changes its tenant, and only the last one's next launch may. */
enum { PARTITIONS = 3 };
static const struct wanted of_admin = {.console_shown = true}, of_layout = {.has_tenant = true};

static void set_up(void)
{
    static const uint8_t key[TENANT_SIZE] = {1};
    partition_count = PARTITIONS;
    for (unsigned i = 0; i < PARTITIONS; i++) {
        partitions[i] = (struct partition){.name = {(char)('a' + i)}, .wanted = i == 1 ? &of_layout : &of_admin, .launches = 1,
                                           .state = i == 0 ? RUNNING : STOPPED, .memory = {0, 16 * PAGE_SIZE}};
        memcpy(partitions[i].tenant, key, sizeof(key));
        memcpy(partitions[i].next_tenant, key, sizeof(key));
    }
}

static void check_kept(void)
{
    for (unsigned i = 0; i < PARTITIONS; i++) {
        CHECK(partitions[i].tenant[0] == 1 && monitor_acts(&partitions[i])->answers[CONSENT_GIVEN] == 0);
        CHECK(monitor_acts(&partitions[i])->pages == 0);
        CHECK(i == 2 || partitions[i].next_tenant[0] == 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct frame request, reply;
    set_up();
    for (size_t at = 0; at + 4 <= size; at += request.length) { /* kind, partition, length; then its payload */
        memset(&request, 0, sizeof(request));
        request.kind = bytes[at] % 16;
        request.payload[0] = (uint8_t)('a' + bytes[at + 1] % 4);
        size_t rest = load16(bytes + at + 2) % (FRAME_PAYLOAD - NAME_SIZE);
        at += 4;
        rest = rest > size - at ? size - at : rest;
        memcpy(request.payload + NAME_SIZE, bytes + at, rest);
        request.length = (uint16_t)(NAME_SIZE + rest);
        request_answer(&request, &reply);
        CHECK(reply.length <= FRAME_PAYLOAD && (reply.kind == REPLY_REFUSED || reply.kind == (request.kind | REPLY)));
        check_kept();
        request.length = (uint16_t)rest;
    }
    return 0;
}
#endif

#if FUZZ != 7 /* there is no TPM */
uint8_t tis_read8(uint32_t at)
{
    (void)at;
    return 0xff;
}

uint32_t tis_read32(uint32_t at)
{
    (void)at;
    return UINT32_MAX;
}
#endif

void tis_write8(uint32_t at, uint8_t value)
{
    (void)at, (void)value;
}

void tis_write32(uint32_t at, uint32_t value)
{
    (void)at, (void)value;
#if FUZZ == 7
    if (value == 0x20) {
        answer_anew();
    }
#endif
}

/* What the channel's requests want of the rest of L0. */
uint64_t tsc_khz = 1000000;
struct partition partitions[MAX_PARTITIONS];
unsigned partition_count;

uint64_t tsc_read(void)
{
    static uint64_t now;
    return now += 2;
}

void *at_physical(uint64_t address)
{
    (void)address;
    abort(); /* nobody's memory is touched without a consent, which no fuzzer can sign */
}

void log_line(const char *pattern, ...)
{
    (void)pattern;
}

const char *partition_start(struct partition *partition)
{
    return partition->state == RUNNING ? "it runs already" : NULL;
}

const char *partition_stop(struct partition *partition, const char *reason)
{
    (void)partition;
    return reason;
}
