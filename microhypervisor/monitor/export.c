#include "monitor/export.h"

#include <sodium/crypto_aead_chacha20poly1305.h>
#include <sodium/crypto_auth_hmacsha256.h>
#include <sodium/crypto_hash_sha256.h>
#include <sodium/crypto_scalarmult_curve25519.h>
#include <sodium/crypto_sign_ed25519.h>
#include <sodium/utils.h>

enum {
    AT_OPERATION = 4,
    AT_NAME = 8,
    AT_PAGE = 24,
    AT_PAGES = 32,
    AT_LAUNCH = 40,
    AT_CHALLENGE = 48,
    AT_PUBLIC = 80,
    AT_CONSENT = 112,
};

_Static_assert(SEALED_PAGE == PAGE_SIZE + crypto_aead_chacha20poly1305_ietf_ABYTES, "export");

/* HKDF with SHA-256 (RFC 5869) for one key: extract with the challenge, expand with the signed statement. */
static void derive(struct export *export, const uint8_t *shared)
{
    crypto_auth_hmacsha256_state state;
    uint8_t extracted[32];
    crypto_auth_hmacsha256_init(&state, export->header + AT_CHALLENGE, CONSENT_HASH);
    crypto_auth_hmacsha256_update(&state, shared, 32);
    crypto_auth_hmacsha256_final(&state, extracted);
    crypto_auth_hmacsha256_init(&state, extracted, sizeof(extracted));
    crypto_auth_hmacsha256_update(&state, export->header, EXPORT_STATEMENT);
    crypto_auth_hmacsha256_update(&state, (const uint8_t[]){1}, 1);
    crypto_auth_hmacsha256_final(&state, export->key);
    sodium_memzero(extracted, sizeof(extracted));
    sodium_memzero(&state, sizeof(state));
}

bool export_begin(struct export *export, const struct act *act, const uint8_t *challenge, const uint8_t *consent,
                  const uint8_t secret[32], const uint8_t signing_key[64])
{
    uint8_t *at = export->header, tenant[32], shared[32];
    memset(at, 0, EXPORT_HEADER);
    memcpy(at, "SCE1", 4);
    at[AT_OPERATION] = (uint8_t)act->operation;
    memcpy(at + AT_NAME, act->name, CONSENT_NAME);
    store64(at + AT_PAGE, act->page);
    store64(at + AT_PAGES, act->pages);
    store64(at + AT_LAUNCH, act->launch);
    memcpy(at + AT_CHALLENGE, challenge, CONSENT_HASH);
    crypto_hash_sha256(at + AT_CONSENT, consent, CONSENT_SIZE);
    if (crypto_sign_ed25519_pk_to_curve25519(tenant, act->tenant) != 0 ||
        crypto_scalarmult_curve25519_base(at + AT_PUBLIC, secret) != 0 ||
        crypto_scalarmult_curve25519(shared, secret, tenant) != 0) {
        return false;
    }
    crypto_sign_ed25519_detached(at + EXPORT_STATEMENT, NULL, at, EXPORT_STATEMENT, signing_key);
    derive(export, shared);
    sodium_memzero(shared, sizeof(shared));
    return true;
}

void export_seal(const struct export *export, uint64_t page, uint64_t version, const uint8_t *plain, uint8_t *sealed)
{
    uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES] = {0}, bound[16];
    store64(nonce, version);
    store64(bound, page);
    store64(bound + 8, version);
    crypto_aead_chacha20poly1305_ietf_encrypt(sealed, NULL, plain, PAGE_SIZE, bound, sizeof(bound), NULL, nonce, export->key);
}
