/* monitor/consent.c: any bytes of any length. What is read is a buffer that ends where the contract ends. */
#include "monitor/consent.h"

#include "proofs/any.h"

/*@ requires \valid_read(sig + (0 .. 63)) && \valid_read(m + (0 .. mlen - 1)) && \valid_read(pk + (0 .. 31));
    assigns \result \from indirect:sig[0 .. 63], indirect:m[0 .. mlen - 1], indirect:pk[0 .. 31]; */
int crypto_sign_ed25519_verify_detached(const unsigned char *sig, const unsigned char *m, unsigned long long mlen,
                                        const unsigned char *pk);
/*@ requires \valid_read(x + (0 .. 31)) && \valid_read(y + (0 .. 31));
    assigns \result \from indirect:x[0 .. 31], indirect:y[0 .. 31]; */
int crypto_verify_32(const unsigned char *x, const unsigned char *y);

static uint8_t bytes[CONSENT_SIZE];

static void decide(const uint8_t *at, size_t length)
{
    struct act act;
    struct challenge challenge;
    ANYTHING(act);
    ANYTHING(challenge);
    challenge.open = any_of(0, 1);
    consent_decide(at, length, &act, &challenge, any_of(0, UINT64_MAX));
}

void eva_consent(void)
{
    struct consent consent;
    ANYTHING(bytes);
    /* Shorter ones: of these not one byte is read. */
    consent_read(&consent, bytes + CONSENT_SIZE, any_of(0, CONSENT_STATEMENT - 1));
    decide(bytes + CONSENT_SIZE, any_of(0, CONSENT_STATEMENT - 1));
    /* Longer ones: "nothing beyond CONSENT_STATEMENT bytes is read", whatever the length is said to be. */
    const uint8_t *statement = bytes + CONSENT_SIZE - CONSENT_STATEMENT;
    consent_read(&consent, statement, any_of(CONSENT_STATEMENT, SIZE_MAX));
    decide(statement, any_of(CONSENT_STATEMENT, CONSENT_SIZE - 1));
    decide(statement, any_of(CONSENT_SIZE + 1, SIZE_MAX));
    decide(bytes, CONSENT_SIZE);
}
