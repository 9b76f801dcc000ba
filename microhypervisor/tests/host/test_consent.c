#include "check.h"
#include "monitor/consent.h"

#include <string.h>

/* Fields of docs/spec/microhypervisor-consent.vectors: "key HEX", "good|bad WHY CONSENT", "small HEX". */
static uint8_t key[32];

static size_t unhex(const char *text, uint8_t *at, size_t size)
{
    size_t count = 0;
    for (unsigned byte; count < size && sscanf(text + 2 * count, "%2x", &byte) == 1; count++) {
        at[count] = (uint8_t)byte;
    }
    return count;
}

/* The act and the challenge that the good vectors speak of. */
static struct act sound_act(void)
{
    struct act act = {.operation = CONSENT_DUMP, .name = "edge-2", .page = 16, .pages = 4, .launch = 3};
    memset(act.arguments, 0xa4, sizeof(act.arguments));
    memcpy(act.tenant, key, sizeof(key));
    return act;
}

static struct challenge sound_challenge(void)
{
    struct challenge challenge = {.open = true, .issued = 1000};
    memset(challenge.bytes, 0xc4, sizeof(challenge.bytes));
    return challenge;
}

static enum consent_answer decide(const uint8_t *bytes, size_t length, struct act act, uint64_t now)
{
    struct challenge challenge = sound_challenge();
    return consent_decide(bytes, length, &act, &challenge, now);
}

static void test_other_acts(const uint8_t *good)
{
    struct act act = sound_act();
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_GIVEN);
    CHECK(decide(good, CONSENT_SIZE, act, 1000 + 5000) == CONSENT_GIVEN);
    CHECK(decide(good, CONSENT_SIZE, act, 1000 + 5001) == CONSENT_EXPIRED);
    CHECK(decide(good, CONSENT_SIZE, act, 999) == CONSENT_EXPIRED); /* before it was issued: the clock went back */
    act.page = 15;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.pages = 100;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act.pages = 0;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act.pages = UINT64_MAX;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.launch = 4;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.operation = CONSENT_INTROSPECT;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.name[0] = 'f';
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.arguments[31] ^= 1;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_OTHER_ACT);
    act = sound_act();
    act.tenant[0] ^= 1;
    CHECK(decide(good, CONSENT_SIZE, act, 1000) == CONSENT_NOT_SIGNED);
}

static void test_single_use(const uint8_t *good)
{
    struct act act = sound_act();
    struct challenge challenge = sound_challenge();
    CHECK(consent_decide(good, CONSENT_SIZE, &act, &challenge, 1000) == CONSENT_GIVEN);
    CHECK(consent_decide(good, CONSENT_SIZE, &act, &challenge, 1000) == CONSENT_OTHER_CHALLENGE);
    challenge = sound_challenge();
    challenge.bytes[0] ^= 1; /* the next one */
    CHECK(consent_decide(good, CONSENT_SIZE, &act, &challenge, 1000) == CONSENT_OTHER_CHALLENGE && challenge.open);
}

/* Each bit of it counts: whichever is changed, it is no consent any more. */
static void test_every_bit(const uint8_t *good)
{
    uint8_t changed[CONSENT_SIZE];
    for (unsigned bit = 0; bit < 8 * CONSENT_SIZE; bit++) {
        memcpy(changed, good, sizeof(changed));
        changed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(decide(changed, sizeof(changed), sound_act(), 1000) != CONSENT_GIVEN);
    }
    for (size_t length = 0; length < CONSENT_SIZE; length++) {
        uint8_t *cut = malloc(length + 1);
        memcpy(cut, good, length);
        CHECK(decide(cut, length, sound_act(), 1000) == CONSENT_MALFORMED);
        free(cut);
    }
}

/* Under a key of small order many verifiers take a signature of no number and a point that is of small order, too: here
 * nobody has consented, whichever it is. */
static void test_small_order(const uint8_t *good, uint8_t keys[][32], unsigned count)
{
    uint8_t forged[CONSENT_SIZE] = {0};
    struct act act = sound_act();
    memcpy(forged, good, CONSENT_STATEMENT);
    for (unsigned i = 0; i < count; i++) {
        memcpy(act.tenant, keys[i], sizeof(act.tenant));
        for (unsigned j = 0; j < count; j++) {
            memcpy(forged + CONSENT_STATEMENT, keys[j], 32);
            for (unsigned purpose = 0; purpose < 64; purpose++) { /* one in eight statements, at the least, would be signed */
                forged[120] = (uint8_t)purpose;
                CHECK(decide(forged, sizeof(forged), act, 1000) == CONSENT_NOT_SIGNED);
            }
        }
    }
}

void test_consent(const char *vectors)
{
    FILE *file = fopen(vectors, "r");
    CHECK(file != NULL);
    static char line[1024], text[768];
    uint8_t bytes[CONSENT_SIZE], sound[CONSENT_SIZE], small[16][32];
    unsigned good = 0, bad = 0, small_count = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "key %767s", text) == 1) {
            CHECK(unhex(text, key, sizeof(key)) == sizeof(key));
        } else if (sscanf(line, "good %*s %767s", text) == 1) {
            CHECK(unhex(text, bytes, sizeof(bytes)) == sizeof(bytes));
            test_other_acts(bytes);
            test_single_use(bytes);
            test_every_bit(bytes);
            memcpy(sound, bytes, sizeof(sound));
            good++;
        } else if (small_count < 16 && sscanf(line, "small %767s", text) == 1) {
            CHECK(unhex(text, small[small_count++], 32) == 32);
        } else if (sscanf(line, "bad %*s %767s", text) == 1) {
            CHECK(decide(bytes, unhex(text, bytes, sizeof(bytes)), sound_act(), 1000) == CONSENT_MALFORMED);
            bad++;
        }
    }
    fclose(file);
    CHECK(good == 1 && bad >= 6 && small_count == 14);
    test_small_order(sound, small, small_count);
}
