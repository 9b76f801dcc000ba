#include "check.h"

#include <string.h>

#include "channel/frame.h"
#include "channel/requests.h"
#include "devices/console.h"
#include "partition/control.h"

uint64_t tsc_khz = 1000000;
struct partition partitions[MAX_PARTITIONS];
unsigned partition_count;
static const struct wanted shown = {.console_shown = true}, hidden = {.console_shown = false}, named = {.has_tenant = true};
static const char *refusal;
static unsigned starts, stops;

const char *partition_start(struct partition *partition)
{
    starts += refusal == NULL;
    partition->state = refusal == NULL ? RUNNING : partition->state;
    return refusal;
}

const char *partition_stop(struct partition *partition, const char *reason)
{
    stops++;
    (void)reason;
    partition->state = STOPPED;
    return NULL;
}

static size_t unhex(const char *text, uint8_t *at, size_t size)
{
    size_t count = 0;
    for (; text[0] != '\0' && text[0] != '-' && count < size; text += 2, count++) {
        unsigned byte;
        CHECK(sscanf(text, "%2x", &byte) == 1);
        at[count] = (uint8_t)byte;
    }
    return count;
}

static unsigned feed(struct receiver *receiver, const uint8_t *bytes, size_t count, struct frame *frame)
{
    unsigned frames = 0;
    for (size_t i = 0; i < count; i++) {
        frames += frame_receive(receiver, bytes[i], frame);
    }
    return frames;
}

/* Lines of docs/spec/microhypervisor-channel.vectors: "good KIND SEQUENCE PAYLOAD FRAME", "bad WHY BYTES". */
static void test_vectors(const char *path)
{
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    static char line[8192], payload_text[4096], frame_text[4096];
    static uint8_t bytes[FRAME_SIZE], again[FRAME_SIZE];
    static struct frame frame, sent;
    unsigned good = 0, bad = 0, kind, sequence;
    while (fgets(line, sizeof(line), file) != NULL) {
        static struct receiver receiver;
        memset(&receiver, 0, sizeof(receiver));
        if (sscanf(line, "good %x %u %4095s %4095s", &kind, &sequence, payload_text, frame_text) == 4) {
            sent.kind = (uint8_t)kind;
            sent.sequence = (uint16_t)sequence;
            sent.length = (uint16_t)unhex(payload_text, sent.payload, sizeof(sent.payload));
            size_t length = unhex(frame_text, bytes, sizeof(bytes));
            CHECK(frame_write(&sent, again) == length && memcmp(again, bytes, length) == 0);
            CHECK(feed(&receiver, bytes, length, &frame) == 1);
            CHECK(frame.kind == kind && frame.sequence == sequence && frame.length == sent.length);
            CHECK(memcmp(frame.payload, sent.payload, sent.length) == 0);
            good++;
        } else if (sscanf(line, "bad %*s %4095s", frame_text) == 1) {
            CHECK(feed(&receiver, bytes, unhex(frame_text, bytes, sizeof(bytes)), &frame) == 0);
            bad++;
        } else {
            CHECK(line[0] == '#' || line[0] == '\n');
        }
    }
    fclose(file);
    CHECK(good >= 5 && bad >= 4);
}

/* Noise, and a frame now and then: each is found whose beginning no noise has swallowed, and nothing is written beyond. */
static void test_noise(void)
{
    static struct receiver receiver;
    static struct frame frame = {.kind = 1}, found;
    static uint8_t bytes[FRAME_SIZE], quiet[FRAME_SIZE];
    size_t length = frame_write(&frame, bytes);
    uint32_t state = 1;
    for (unsigned round = 0; round < 2000; round++) {
        for (unsigned i = 0; i < 50; i++) {
            state = state * 1664525 + 1013904223;
            frame_receive(&receiver, (state >> 24) % 3 == 0 ? 'M' : (state >> 24) % 3 == 1 ? 'H' : (uint8_t)(state >> 16), &found);
        }
        feed(&receiver, quiet, sizeof(quiet), &found); /* as the specification tells clients to begin */
        CHECK(feed(&receiver, bytes, length, &found) == 1);
    }
}

void test_frame(const char *vectors)
{
    CHECK(crc32((const uint8_t *)"123456789", 9) == 0xcbf43926);
    test_vectors(vectors);
    test_noise();
}

static struct frame request, reply;

static uint8_t ask(enum request kind, const char *name, size_t length)
{
    memset(&request, 0, sizeof(request));
    request.kind = (uint8_t)kind;
    request.sequence = 7;
    request.length = (uint16_t)length;
    memcpy(request.payload, name, strlen(name));
    request_answer(&request, &reply);
    CHECK(reply.sequence == 7 && reply.length <= FRAME_PAYLOAD);
    return reply.kind == REPLY_REFUSED ? reply.payload[0] : reply.kind == (kind | REPLY) ? 0 : 255;
}

static void test_console(void)
{
    struct core core = {.partition = &partitions[0]};
    for (unsigned i = 0; i < CONSOLE_SIZE + 100; i++) {
        struct io io = {0x3f8, 1, true, 'a' + i % 26};
        console_access(&core, &io);
    }
    CHECK(ask(REQUEST_CONSOLE, "a", NAME_SIZE + 8) == 0 && reply.length == 8 + 512);
    CHECK(load32(reply.payload) == 100 + 512 && reply.payload[8] == 'a' + 100 % 26); /* the oldest that is left */
    CHECK(ask(REQUEST_CONSOLE, "b", NAME_SIZE + 8) == REFUSED_HIDDEN);
    CHECK(ask(REQUEST_CONSOLE, "a", NAME_SIZE) == REFUSED_LENGTH);
}

static uint8_t name_tenant(const char *name, uint8_t byte, size_t length)
{
    memset(&request, 0, sizeof(request));
    request.kind = REQUEST_TENANT;
    request.length = (uint16_t)(NAME_SIZE + length);
    memcpy(request.payload, name, strlen(name));
    request.payload[NAME_SIZE + TENANT_SIZE - 1] = byte;
    request_answer(&request, &reply);
    return reply.kind == REPLY_REFUSED ? reply.payload[0] : reply.kind == (REQUEST_TENANT | REPLY) ? 0 : 255;
}

/* For the next launch alone, of a partition that stands still, and whose layout names none. */
static void test_tenant(void)
{
    struct partition *partition = &partitions[3];
    CHECK(name_tenant("d", 7, TENANT_SIZE) == 0 && reply.length == 0);
    CHECK(is_tenant(partition->next_tenant) && partition->next_tenant[31] == 7 && !is_tenant(partition->tenant));
    CHECK(name_tenant("d", 8, TENANT_SIZE - 1) == REFUSED_LENGTH && name_tenant("d", 8, TENANT_SIZE + 1) == REFUSED_LENGTH);
    CHECK(name_tenant("z", 8, TENANT_SIZE) == REFUSED_NAME);
    partition->state = RUNNING;
    CHECK(name_tenant("d", 8, TENANT_SIZE) == REFUSED_STATE);
    partition->state = RESTARTING;
    CHECK(name_tenant("d", 8, TENANT_SIZE) == REFUSED_STATE && partition->next_tenant[31] == 7);
    partition->state = PARKED;
    CHECK(name_tenant("d", 0, TENANT_SIZE) == 0 && !is_tenant(partition->next_tenant)); /* nobody */
    partition->wanted = &named;
    CHECK(name_tenant("d", 8, TENANT_SIZE) == REFUSED_STATE && !is_tenant(partition->next_tenant));
}

void test_requests(void)
{
    partition_count = MAX_PARTITIONS;
    for (unsigned i = 0; i < MAX_PARTITIONS; i++) {
        partitions[i] = (struct partition){.name = {(char)('a' + i)}, .wanted = i == 0 ? &shown : &hidden};
    }
    CHECK(ask(REQUEST_HELLO, "", 0) == 0 && reply.payload[0] == FRAME_VERSION && reply.length == 10);
    CHECK(ask(REQUEST_LIST, "", 0) == 0 && reply.length == 1 + MAX_PARTITIONS * 114 && reply.payload[1] == 'a');
    CHECK(ask(REQUEST_LIST, "a", 1) == REFUSED_LENGTH);
    CHECK(ask(REQUEST_START, "c", NAME_SIZE) == 0 && partitions[2].state == RUNNING && starts == 1);
    CHECK(ask(REQUEST_STOP, "c", NAME_SIZE) == 0 && partitions[2].state == STOPPED && stops == 1);
    CHECK(ask(REQUEST_RESTART, "c", NAME_SIZE) == 0 && starts == 2 && stops == 2);
    refusal = "it runs already";
    CHECK(ask(REQUEST_START, "c", NAME_SIZE) == REFUSED_STATE && memcmp(reply.payload + 1, "it runs", 7) == 0);
    for (unsigned kind = REQUEST_START; kind <= REQUEST_MEASURE; kind++) {
        size_t right = kind == REQUEST_CONSOLE ? NAME_SIZE + 8 : NAME_SIZE;
        CHECK(ask(kind, "z", right) == REFUSED_NAME && ask(kind, "a", right - 1) == REFUSED_LENGTH);
    }
    CHECK(ask(0x33, "", 0) == REFUSED_KIND && ask(REPLY_REFUSED, "", 0) == REFUSED_KIND);
    CHECK(ask(REQUEST_MEASURE, "a", NAME_SIZE) == 0 && reply.length == DIGEST_SIZE + 9);
    CHECK(ask(REQUEST_STATISTICS, "a", NAME_SIZE) == 0 && reply.length == 1);
    test_console();
    test_tenant();
}
