/* channel/requests.c, acts.c and reply.c, with what they call of console.c, tenant.c and format.c: any frame that was received,
 * while partitions are in any state. What the monitor and the control of partitions answer is anything; what they are given is
 * looked at here. */
#include "channel/requests.h"

#include "monitor/monitor.h"
#include "partition/control.h"
#include "proofs/any.h"

uint64_t tsc_khz;
struct partition partitions[MAX_PARTITIONS];
unsigned partition_count;

static struct wanted wanted;
static struct core core;
static struct acts acts;
static uint8_t key[32], hash[CONSENT_HASH], header[EXPORT_HEADER], sealed_page[SEALED_PAGE];
static struct frame request, reply;

void log_line(const char *pattern, ...)
{
    (void)pattern;
}

const char *partition_start(struct partition *partition)
{
    (void)partition;
    return any_of(0, 1) ? "it could not" : NULL;
}

const char *partition_stop(struct partition *partition, const char *reason)
{
    (void)partition;
    return any_of(0, 1) ? reason : NULL;
}

const uint8_t *monitor_key(void)
{
    return key;
}

const uint8_t *monitor_challenge(struct partition *partition)
{
    (void)partition;
    return hash;
}

enum consent_answer monitor_act(struct partition *partition, enum consent_operation operation, struct range pages,
                                const uint8_t *consent, const uint8_t **at)
{
    (void)partition, (void)operation, (void)pages;
    //@ assert consent_there: \valid_read(consent + (0 .. CONSENT_SIZE - 1));
    *at = header;
    return (enum consent_answer)any_of(0, CONSENT_ANSWERS - 1);
}

enum consent_answer monitor_page(struct partition *partition, uint64_t page, uint64_t *version, const uint8_t **sealed)
{
    (void)partition, (void)page;
    *version = any_of(0, UINT64_MAX);
    *sealed = sealed_page;
    return (enum consent_answer)any_of(0, CONSENT_ANSWERS - 1);
}

size_t monitor_attest(const struct partition *partition, const uint8_t nonce[NONCE_SIZE], uint8_t signature[SIGNATURE_SIZE],
                      uint8_t quote[QUOTE_SIZE])
{
    (void)partition;
    //@ assert nonce_there: \valid_read(nonce + (0 .. NONCE_SIZE - 1));
    Frama_C_make_unknown((char *)signature, SIGNATURE_SIZE);
    Frama_C_make_unknown((char *)quote, QUOTE_SIZE);
    return any_of(0, QUOTE_SIZE);
}

const struct acts *monitor_acts(const struct partition *partition)
{
    (void)partition;
    return &acts;
}

const char *monitor_says(enum consent_answer answer)
{
    (void)answer;
    return "the consent is for something else";
}

static void set_up(void)
{
    ANYTHING(partitions);
    ANYTHING(core);
    ANYTHING(acts);
    wanted.console_shown = any_of(0, 1);
    wanted.has_tenant = any_of(0, 1);
    partition_count = (unsigned)any_of(0, MAX_PARTITIONS);
    //@ loop unroll 8;
    for (unsigned i = 0; i < MAX_PARTITIONS; i++) {
        partitions[i].wanted = &wanted;
        partitions[i].core_count = (unsigned)any_of(0, MAX_CORES);
        //@ loop unroll 8;
        for (unsigned j = 0; j < MAX_CORES; j++) {
            partitions[i].cores[j] = &core;
        }
    }
}

static void ask(uint8_t kind)
{
    request.kind = kind;
    request_answer(&request, &reply);
    //@ assert fits: reply.length <= FRAME_PAYLOAD;
}

/* A sealed page from some byte on, where the request has it. */
static void ask_page(uint8_t low, uint8_t high)
{
    request.payload[NAME_SIZE + 8] = low;
    request.payload[NAME_SIZE + 9] = high;
    ask(REQUEST_PAGE);
}

/* Up to 3112 a part is 1000 bytes long. Behind that its length is what is left: each by itself, as EVA does not relate two
 * values; and only one partition, as it makes no difference to that. */
static void ask_pages(void)
{
    enum { SOON = 12 * 256 };
    //@ loop unroll 256;
    for (unsigned high = 0; high < 256; high++) {
        if (high < SOON >> 8 || high > SEALED_PAGE >> 8) {
            ask_page((uint8_t)any_of(0, UINT8_MAX), (uint8_t)high);
        }
    }
    partition_count = 1;
    //@ loop unroll 1280;
    for (unsigned from = SOON; from < (SEALED_PAGE | 255) + 1; from++) {
        ask_page((uint8_t)from, (uint8_t)(from >> 8));
    }
}

void eva_requests(void)
{
    set_up();
    ANYTHING(request);
    request.length = (uint16_t)any_of(0, FRAME_PAYLOAD);
    ask((uint8_t)any_of(0, REQUEST_PAGE - 1));
    ask((uint8_t)any_of(REQUEST_PAGE + 1, UINT8_MAX));
    ask_pages();
}
