#include "monitor/monitor.h"

#include <sodium/crypto_hash_sha256.h>
#include <sodium/crypto_sign_ed25519.h>
#include <sodium/randombytes.h>
#include <sodium/utils.h>

#include "lib/log.h"
#include "memory/physical.h"
#include "monitor/quote.h"

#define ATTESTED 128 /* bytes of the statement that is signed about a measurement */

/* One partition's: its challenge, and the act that goes on, if there is one. */
struct monitored {
    struct challenge challenge;
    struct acts acts;
    bool open;
    uint64_t launch, first, next, end; /* of the act: pages from first up to end, next is to be sealed */
    uint64_t issued, ticks;
    struct export export;
    uint8_t sealed[SEALED_PAGE]; /* the page before `next` */
};

static struct monitored monitored[MAX_PARTITIONS];
static uint8_t public_key[crypto_sign_ed25519_PUBLICKEYBYTES], signing_key[crypto_sign_ed25519_SECRETKEYBYTES];

static struct monitored *of(const struct partition *partition)
{
    return &monitored[partition - partitions];
}

const char *monitor_says(enum consent_answer answer)
{
    static const char *const says[CONSENT_ANSWERS] = {
        "given",
        "what came is no consent",
        "its tenant has not signed it",
        "the challenge is not the one that was issued last, or was used",
        "it is the consent to something else",
        "its time has passed",
        "the partition has no tenant who could consent",
        "no act that was consented to comes to that page now",
    };
    return says[answer];
}

void monitor_begin(bool tpm)
{
    uint8_t seed[crypto_sign_ed25519_SEEDBYTES];
    randombytes_buf(seed, sizeof(seed));
    crypto_sign_ed25519_seed_keypair(public_key, signing_key, seed);
    sodium_memzero(seed, sizeof(seed));
    if (tpm) {
        quote_begin(public_key);
    } else {
        log_line("there is no TPM: nobody attests what is measured here");
    }
}

const uint8_t *monitor_key(void)
{
    return public_key;
}

const struct acts *monitor_acts(const struct partition *partition)
{
    return &of(partition)->acts;
}

const uint8_t *monitor_challenge(struct partition *partition)
{
    struct monitored *it = of(partition);
    randombytes_buf(it->challenge.bytes, sizeof(it->challenge.bytes));
    it->challenge.issued = tsc_read();
    it->challenge.open = true;
    it->acts.challenges++;
    return it->challenge.bytes;
}

static void end_act(struct monitored *it)
{
    it->open = false;
    sodium_memzero(&it->export, sizeof(it->export));
    sodium_memzero(it->sealed, sizeof(it->sealed));
}

static enum consent_answer told(struct partition *partition, enum consent_answer answer, const char *what,
                                struct range pages)
{
    of(partition)->acts.answers[answer]++;
    log_line("partition %s: monitor: %s of pages 0x%x up to 0x%x: %s%s", partition->name, what, pages.start, pages.end,
             answer == CONSENT_GIVEN ? "" : "refused: ", monitor_says(answer));
    return answer;
}

/* All of its memory but the last page, which stands for its IO-APIC; no device, reading of which could change it. */
static bool is_memory(const struct partition *partition, struct range pages)
{
    uint64_t last = (partition->memory.end - partition->memory.start) / PAGE_SIZE - 1;
    return pages.start < pages.end && pages.end <= last;
}

static struct act as_act(const struct partition *partition, enum consent_operation operation, struct range pages)
{
    struct act act = {.operation = operation, .page = pages.start, .pages = pages.end - pages.start,
                      .launch = partition->launches};
    memcpy(act.name, partition->name, CONSENT_NAME);
    memcpy(act.tenant, partition->tenant, sizeof(act.tenant));
    crypto_hash_sha256(act.arguments, NULL, 0); /* there are none besides */
    return act;
}

static enum consent_answer begin(struct partition *partition, const struct act *act, const uint8_t *consent)
{
    struct monitored *it = of(partition);
    struct consent read;
    uint8_t secret[32];
    enum consent_answer answer = consent_decide(consent, CONSENT_SIZE, act, &it->challenge, tsc_read());
    if (answer != CONSENT_GIVEN || !consent_read(&read, consent, CONSENT_SIZE)) {
        return answer;
    }
    randombytes_buf(secret, sizeof(secret));
    bool sound = export_begin(&it->export, act, it->challenge.bytes, consent, secret, signing_key);
    sodium_memzero(secret, sizeof(secret));
    if (!sound) {
        return CONSENT_NO_TENANT;
    }
    it->issued = it->challenge.issued;
    it->ticks = read.ticks;
    it->launch = act->launch;
    it->first = it->next = act->page;
    it->end = act->page + act->pages;
    it->open = true;
    return CONSENT_GIVEN;
}

enum consent_answer monitor_act(struct partition *partition, enum consent_operation operation, struct range pages,
                                const uint8_t *consent, const uint8_t **header)
{
    static const char *const names[] = {[CONSENT_DUMP] = "dump", [CONSENT_INTROSPECT] = "introspection", [CONSENT_MIGRATE] = "migration"};
    const char *what = operation >= CONSENT_DUMP && operation <= CONSENT_MIGRATE ? names[operation] : "some act";
    end_act(of(partition));
    *header = of(partition)->export.header;
    if (!is_tenant(partition->tenant)) {
        return told(partition, CONSENT_NO_TENANT, what, pages);
    }
    if (!is_memory(partition, pages)) {
        return told(partition, CONSENT_OTHER_ACT, what, pages); /* nobody can consent to what is not there */
    }
    struct act act = as_act(partition, operation, pages);
    return told(partition, begin(partition, &act, consent), what, pages);
}

static void seal(const struct partition *partition, struct monitored *it)
{
    static uint8_t plain[PAGE_SIZE]; /* a copy: the partition may be writing there */
    memcpy(plain, at_physical(partition->memory.start + it->next * PAGE_SIZE), PAGE_SIZE);
    export_seal(&it->export, it->next, ++it->acts.pages, plain, it->sealed);
    sodium_memzero(plain, sizeof(plain));
    it->next++;
}

enum consent_answer monitor_page(struct partition *partition, uint64_t page, uint64_t *version, const uint8_t **sealed)
{
    struct monitored *it = of(partition);
    struct range pages = {page, page + 1};
    uint64_t now = tsc_read();
    if (it->open && (now < it->issued || now - it->issued > it->ticks)) {
        end_act(it);
        return told(partition, CONSENT_EXPIRED, "a part", pages);
    }
    if (it->open && it->launch != partition->launches) {
        end_act(it); /* what is there now is another launch's */
    }
    bool again = it->open && it->next > it->first && page == it->next - 1;
    if (!again && !(it->open && page == it->next && page < it->end)) {
        return told(partition, CONSENT_NOT_NEXT, "a part", pages);
    }
    if (!again) {
        seal(partition, it);
    }
    *version = it->acts.pages;
    *sealed = it->sealed;
    return CONSENT_GIVEN;
}

size_t monitor_attest(const struct partition *partition, const uint8_t nonce[NONCE_SIZE], uint8_t signature[SIGNATURE_SIZE],
                      uint8_t quote[QUOTE_SIZE])
{
    uint8_t statement[ATTESTED] = "SCM1", digest[crypto_hash_sha256_BYTES];
    memcpy(statement + 8, partition->name, NAME_SIZE);
    store64(statement + 24, partition->launches);
    memcpy(statement + 32, partition->digest, DIGEST_SIZE);
    memcpy(statement + 64, nonce, NONCE_SIZE);
    memcpy(statement + 96, partition->tenant, TENANT_SIZE);
    crypto_sign_ed25519_detached(signature, NULL, statement, sizeof(statement), signing_key);
    crypto_hash_sha256(digest, statement, sizeof(statement));
    return quote_take(digest, quote);
}
