#include "monitor/consent.h"

#include <sodium/crypto_sign_ed25519.h>
#include <sodium/crypto_verify_32.h>

enum {
    AT_OPERATION = 4,
    AT_NAME = 8,
    AT_PAGE = 24,
    AT_PAGES = 32,
    AT_LAUNCH = 40,
    AT_CHALLENGE = 48,
    AT_TICKS = 80,
    AT_REQUESTER = 88,
    AT_PURPOSE = 120,
    AT_ARGUMENTS = 152,
};

#define PAGES_LIMIT (1ull << 36) /* 2^48 bytes */

/* Letters, and then zeros alone: else one name would have several encodings. */
static bool name(const uint8_t *at)
{
    unsigned length = 0;
    while (length < CONSENT_NAME && at[length] != 0) {
        uint8_t c = at[length++];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) {
            return false;
        }
    }
    for (unsigned i = length; i < CONSENT_NAME; i++) {
        if (at[i] != 0) {
            return false;
        }
    }
    return length > 0 && length < CONSENT_NAME;
}

bool consent_read(struct consent *consent, const uint8_t *bytes, size_t length)
{
    if (length < CONSENT_STATEMENT || memcmp(bytes, "SCC1", 4) != 0 || !name(bytes + AT_NAME)) {
        return false;
    }
    uint8_t operation = bytes[AT_OPERATION];
    if (operation < CONSENT_DUMP || operation > CONSENT_MIGRATE || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0) {
        return false;
    }
    consent->operation = operation;
    memcpy(consent->name, bytes + AT_NAME, CONSENT_NAME);
    consent->page = load64(bytes + AT_PAGE);
    consent->pages = load64(bytes + AT_PAGES);
    consent->launch = load64(bytes + AT_LAUNCH);
    consent->ticks = load64(bytes + AT_TICKS);
    memcpy(consent->challenge, bytes + AT_CHALLENGE, CONSENT_HASH);
    memcpy(consent->requester, bytes + AT_REQUESTER, CONSENT_HASH);
    memcpy(consent->purpose, bytes + AT_PURPOSE, CONSENT_HASH);
    memcpy(consent->arguments, bytes + AT_ARGUMENTS, CONSENT_HASH);
    return consent->pages > 0 && consent->page < PAGES_LIMIT && consent->pages <= PAGES_LIMIT - consent->page &&
           consent->launch > 0 && consent->ticks > 0;
}

static bool covers(const struct consent *consent, const struct act *act)
{
    struct range agreed = {consent->page, consent->page + consent->pages};
    return consent->operation == act->operation && memcmp(consent->name, act->name, CONSENT_NAME) == 0 &&
           consent->launch == act->launch && act->pages > 0 && range_holds(agreed, act->page, act->pages) &&
           memcmp(consent->arguments, act->arguments, CONSENT_HASH) == 0;
}

enum consent_answer consent_decide(const uint8_t *bytes, size_t length, const struct act *act, struct challenge *challenge,
                                   uint64_t now)
{
    struct consent consent;
    if (length != CONSENT_SIZE || !consent_read(&consent, bytes, length)) {
        return CONSENT_MALFORMED;
    }
    if (crypto_sign_ed25519_verify_detached(bytes + CONSENT_STATEMENT, bytes, CONSENT_STATEMENT, act->tenant) != 0) {
        return CONSENT_NOT_SIGNED;
    }
    if (!challenge->open || crypto_verify_32(consent.challenge, challenge->bytes) != 0) {
        return CONSENT_OTHER_CHALLENGE;
    }
    challenge->open = false; /* single use, whatever comes of it */
    if (!covers(&consent, act)) {
        return CONSENT_OTHER_ACT;
    }
    return now < challenge->issued || now - challenge->issued > consent.ticks ? CONSENT_EXPIRED : CONSENT_GIVEN;
}
