/* Pages on their way from a partition to its tenant: docs/spec/microhypervisor-export.md. Monitor core only. */
#ifndef MH_EXPORT_H
#define MH_EXPORT_H

#include "monitor/consent.h"

#define EXPORT_STATEMENT 144
#define EXPORT_HEADER 208
#define SEALED_PAGE (PAGE_SIZE + 16)

struct export {
    uint8_t header[EXPORT_HEADER]; /* what the tenant needs to open the pages, signed */
    uint8_t key[32];
};

/* Write the header and agree on a key with the tenant, by `secret`: 32 random bytes that are used for nothing else.
 * `signing_key`: the machine's. False: the tenant's key is no sound one, so that nothing can be sealed for it. */
bool export_begin(struct export *export, const struct act *act, const uint8_t *challenge, const uint8_t *consent,
                  const uint8_t secret[32], const uint8_t signing_key[64]);
/* Encrypt and authenticate one page. `version` is never the same twice in one export: it is the nonce. */
void export_seal(const struct export *export, uint64_t page, uint64_t version, const uint8_t *plain, uint8_t *sealed);

#endif
