/* The reference monitor as the channel reaches it, and what leaves it: sealed as docs/spec/microhypervisor-export.vectors say. */
#include "check.h"

#include <sodium.h>
#include <string.h>

#include "channel/requests.h"
#include "memory/physical.h"
#include "monitor/monitor.h"

#define PAGES 64

static uint8_t tenant_public[32], tenant[64], machine_public[32], machine[64], secret[32];
static const struct wanted wanted = {.has_tenant = false};

static size_t unhex(const char *text, uint8_t *at, size_t size)
{
    size_t count = 0;
    for (unsigned byte; count < size && sscanf(text + 2 * count, "%2x", &byte) == 1; count++) {
        at[count] = (uint8_t)byte;
    }
    return count;
}

static void test_page(const struct export *export, unsigned long page, unsigned long version, const char *text)
{
    static uint8_t plain[PAGE_SIZE], sealed[SEALED_PAGE], expected[SEALED_PAGE];
    for (unsigned i = 0; i < PAGE_SIZE; i++) {
        plain[i] = (uint8_t)(7 * i + i / 256);
    }
    CHECK(unhex(text, expected, sizeof(expected)) == SEALED_PAGE);
    export_seal(export, page, version, plain, sealed);
    CHECK(memcmp(sealed, expected, SEALED_PAGE) == 0);
    export_seal(export, page, version + 1, plain, sealed);
    CHECK(memcmp(sealed, expected, SEALED_PAGE) != 0);
}

/* The consent whose vectors these continue. */
static void read_consent(const char *path, uint8_t *consent)
{
    static char line[1024], text[768];
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "good %*s %767s", text) != 1) {
    }
    fclose(file);
    CHECK(unhex(text, consent, CONSENT_SIZE) == CONSENT_SIZE);
}

static void test_export(const char *consents, const char *vectors)
{
    static char line[16384], text[16384];
    uint8_t consent[CONSENT_SIZE], seed[32], header[EXPORT_HEADER], challenge[32];
    struct act act = {.operation = CONSENT_DUMP, .name = "edge-2", .page = 16, .pages = 4, .launch = 3};
    struct export export;
    unsigned pages = 0;
    unsigned long page, version;
    FILE *file = fopen(vectors, "r");
    CHECK(file != NULL);
    read_consent(consents, consent);
    memset(challenge, 0xc4, sizeof(challenge));
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "tenant %16000s", text) == 1) {
            CHECK(unhex(text, seed, 32) == 32 && crypto_sign_seed_keypair(tenant_public, tenant, seed) == 0);
        } else if (sscanf(line, "machine %16000s", text) == 1) {
            CHECK(unhex(text, seed, 32) == 32 && crypto_sign_seed_keypair(machine_public, machine, seed) == 0);
        } else if (sscanf(line, "secret %16000s", text) == 1) {
            CHECK(unhex(text, secret, 32) == 32);
        } else if (sscanf(line, "header %16000s", text) == 1) {
            memcpy(act.tenant, tenant_public, 32);
            CHECK(unhex(text, header, sizeof(header)) == sizeof(header));
            CHECK(export_begin(&export, &act, challenge, consent, secret, machine));
            CHECK(memcmp(export.header, header, sizeof(header)) == 0);
        } else if (sscanf(line, "page %lu %lu %16000s", &page, &version, text) == 3) {
            test_page(&export, page, version, text);
            pages++;
        }
    }
    fclose(file);
    CHECK(pages == 2);
    memset(act.tenant, 0, sizeof(act.tenant)); /* a point of small order: everybody would know the key */
    CHECK(!export_begin(&export, &act, challenge, consent, secret, machine));
}

static struct frame request, reply;
static uint64_t now = 1000, answers[CONSENT_ANSWERS]; /* what was answered about partition a */

uint64_t tsc_read(void)
{
    return now += 2;
}

/* 0, or the code of refusal. */
static uint8_t ask(enum request kind, const char *name, const void *rest, size_t length)
{
    memset(&request, 0, sizeof(request));
    request.kind = (uint8_t)kind;
    request.length = (uint16_t)(NAME_SIZE + length);
    memcpy(request.payload, name, strlen(name));
    memcpy(request.payload + NAME_SIZE, rest, length);
    request_answer(&request, &reply);
    CHECK(reply.length <= FRAME_PAYLOAD);
    uint8_t code = reply.kind == REPLY_REFUSED ? reply.payload[0] : 0;
    if (name[0] == 'a' && ((kind == REQUEST_ACT && code == 0) || code >= REFUSED_CONSENT)) {
        answers[code == 0 ? CONSENT_GIVEN : code - REFUSED_CONSENT + CONSENT_MALFORMED]++;
    }
    return code;
}

struct wish { /* of an act, and what is consented to */
    const char *asked, *named;
    uint8_t operation, signed_operation;
    uint64_t page, pages, signed_page, signed_pages, launch, ticks;
    const uint8_t *key;
    int flip; /* a byte of the consent that is changed, or -1 */
};

static struct wish sound(void)
{
    return (struct wish){"a", "a", 1, 1, 3, 2, 2, 4, 1, UINT64_MAX, tenant, -1};
}

static uint8_t consent_of[CONSENT_SIZE];

static void sign(const struct wish *wish)
{
    uint8_t *at = consent_of;
    memset(at, 0, CONSENT_SIZE);
    memcpy(at, "SCC1", 4);
    at[4] = wish->signed_operation;
    memcpy(at + 8, wish->named, strlen(wish->named));
    store64(at + 24, wish->signed_page);
    store64(at + 32, wish->signed_pages);
    store64(at + 40, wish->launch);
    memcpy(at + 48, reply.payload, 32); /* the challenge that was just issued */
    store64(at + 80, wish->ticks);
    crypto_hash_sha256(at + 152, NULL, 0);
    crypto_sign_detached(at + CONSENT_STATEMENT, NULL, at, CONSENT_STATEMENT, wish->key);
    at[wish->flip >= 0 ? wish->flip : 0] ^= wish->flip >= 0;
}

static uint8_t begin(const struct wish *wish)
{
    uint8_t rest[17 + CONSENT_SIZE] = {wish->operation};
    store64(rest + 1, wish->page);
    store64(rest + 9, wish->pages);
    memcpy(rest + 17, consent_of, CONSENT_SIZE);
    return ask(REQUEST_ACT, wish->asked, rest, sizeof(rest));
}

static uint8_t act(const struct wish *wish)
{
    CHECK(ask(REQUEST_CHALLENGE, wish->asked, "", 0) == 0 && reply.length == 40);
    sign(wish);
    return begin(wish);
}

static uint8_t page(uint64_t number, uint16_t from)
{
    uint8_t rest[10];
    store64(rest, number);
    store16(rest + 8, from);
    return ask(REQUEST_PAGE, "a", rest, sizeof(rest));
}

enum { MALFORMED = 6, NOT_SIGNED, OTHER_CHALLENGE, OTHER_ACT, EXPIRED, NO_TENANT, NOT_NEXT };

static void test_refusals(void)
{
    struct wish wish = sound();
    wish.flip = 60;
    CHECK(act(&wish) == NOT_SIGNED && page(3, 0) == NOT_NEXT);
    wish.flip = 0;
    CHECK(act(&wish) == MALFORMED);
    wish = sound();
    wish.key = machine;
    CHECK(act(&wish) == NOT_SIGNED);
    wish = sound();
    wish.named = "b";
    CHECK(act(&wish) == OTHER_ACT);
    wish = sound();
    wish.operation = 2;
    CHECK(act(&wish) == OTHER_ACT);
    wish.operation = 9;
    CHECK(act(&wish) == OTHER_ACT);
    wish = sound();
    wish.page = 5; /* one page beyond what is agreed */
    CHECK(act(&wish) == OTHER_ACT);
    wish = sound();
    wish.launch = 2;
    CHECK(act(&wish) == OTHER_ACT);
    wish = sound();
    wish.ticks = 1; /* the clock has gone on by two when it is looked at */
    CHECK(act(&wish) == EXPIRED && page(3, 0) == NOT_NEXT);
    wish = sound();
    wish.signed_page = PAGES - 2;
    wish.page = PAGES - 1; /* no memory */
    wish.pages = 1;
    CHECK(act(&wish) == OTHER_ACT);
    wish.page = UINT64_MAX;
    CHECK(act(&wish) == OTHER_ACT);
    wish.page = 0;
    wish.pages = 0;
    CHECK(act(&wish) == OTHER_ACT);
    wish = sound();
    wish.asked = wish.named = "b";
    CHECK(act(&wish) == NO_TENANT);
}

static void test_pages(void)
{
    struct wish wish = sound();
    static uint8_t first[FRAME_PAYLOAD];
    CHECK(act(&wish) == 0 && reply.length == EXPORT_HEADER && memcmp(reply.payload, "SCE1", 4) == 0);
    CHECK(page(2, 0) == NOT_NEXT && page(4, 0) == NOT_NEXT);
    CHECK(page(3, 0) == 0 && reply.length == 1008 && load64(reply.payload) == 1);
    memcpy(first, reply.payload, sizeof(first));
    CHECK(page(3, 4000) == 0 && reply.length == 8 + 112);
    CHECK(page(3, SEALED_PAGE) == REFUSED_LENGTH);
    CHECK(page(3, 0) == 0 && memcmp(first, reply.payload, 1008) == 0); /* the same again, under the same nonce */
    CHECK(page(4, 0) == 0 && load64(reply.payload) == 2);
    CHECK(page(3, 0) == NOT_NEXT && page(5, 0) == NOT_NEXT && page(4, 1) == 0);
    CHECK(begin(&wish) == OTHER_CHALLENGE); /* replayed; and what went on has ended */
    CHECK(page(4, 0) == NOT_NEXT);
    CHECK(act(&wish) == 0);
    partitions[0].launches = 2; /* it was started again meanwhile: what is there is another launch's */
    CHECK(page(3, 0) == NOT_NEXT);
    partitions[0].launches = 1;
    CHECK(page(3, 0) == NOT_NEXT);
    wish.ticks = 1000; /* passes while it goes on */
    CHECK(act(&wish) == 0 && page(3, 0) == 0);
    now += 1000;
    CHECK(page(4, 0) == EXPIRED && page(4, 0) == NOT_NEXT);
}

/* An admin names a key of its own: what is in memory stays its tenant's, until a launch has cleared it. */
static void test_next_tenant(void)
{
    struct wish wish = sound();
    CHECK(ask(REQUEST_TENANT, "a", machine_public, 32) == 0);
    wish.key = machine;
    CHECK(act(&wish) == NOT_SIGNED && page(3, 0) == NOT_NEXT);
    wish = sound();
    CHECK(act(&wish) == 0 && page(3, 0) == 0);
    CHECK(ask(REQUEST_TENANT, "a", tenant_public, 32) == 0);
}

static void test_attest(void)
{
    uint8_t nonce[32] = {7}, statement[128] = "SCM1a";
    memmove(statement + 8, "a", 1);
    statement[4] = 0;
    CHECK(ask(REQUEST_ATTEST, "a", nonce, sizeof(nonce)) == 0 && reply.length == 32 + 8 + 1 + 32 + 32 + 64);
    store64(statement + 24, 1);
    memcpy(statement + 32, reply.payload, 32);
    memcpy(statement + 64, nonce, 32);
    memcpy(statement + 96, tenant_public, 32);
    CHECK(reply.payload[40] == 0 && memcmp(reply.payload + 41, tenant_public, 32) == 0);
    CHECK(crypto_sign_verify_detached(reply.payload + 105, statement, sizeof(statement), reply.payload + 73) == 0);
}

static void test_counts(void)
{
    CHECK(ask(REQUEST_ACTS, "a", "", 0) == 0 && reply.length == 80);
    CHECK(load64(reply.payload) == 17 && load64(reply.payload + 8) == 4);
    for (unsigned i = 0; i < CONSENT_ANSWERS; i++) {
        CHECK(load64(reply.payload + 16 + 8 * i) == answers[i]);
    }
    CHECK(answers[CONSENT_GIVEN] == 4 && answers[CONSENT_OTHER_ACT] == 8 && answers[CONSENT_NO_TENANT] == 0);
}

void test_monitor(const char *consents, const char *vectors)
{
    CHECK(sodium_init() >= 0);
    test_export(consents, vectors);
    arena_clear();
    memset(partitions, 0, sizeof(partitions));
    partition_count = 2;
    struct range memory = {ARENA_START, ARENA_START + PAGES * PAGE_SIZE};
    partitions[0] = (struct partition){.name = "a", .wanted = &wanted, .launches = 1, .memory = memory};
    partitions[1] = (struct partition){.name = "b", .wanted = &wanted, .launches = 1, .memory = memory};
    memcpy(partitions[0].tenant, tenant_public, 32);
    monitor_begin(true);
    test_refusals();
    test_pages();
    test_next_tenant();
    test_attest();
    test_counts();
}
