/* The reference monitor: the only way by which a partition's memory leaves it, and only with its tenant's consent, to its
 * tenant's key. What is refused and what is given is logged and counted. Monitor core only. */
#ifndef MH_MONITOR_H
#define MH_MONITOR_H

#include "monitor/export.h"
#include "monitor/quote.h"
#include "partition/partition.h"

#define NONCE_SIZE 32
#define SIGNATURE_SIZE 64

struct acts {
    uint64_t challenges, pages; /* issued; sealed */
    uint64_t answers[CONSENT_ANSWERS];
};

/* At machine start: make the key that signs until the machine ends, and have the TPM hold it, if the tables say that there is one. */
void monitor_begin(bool tpm);
const uint8_t *monitor_key(void); /* its public half, 32 bytes */

/* Issue a challenge for the next act on a partition; none issued before is good any more. */
const uint8_t *monitor_challenge(struct partition *partition);

/* Begin an act: with CONSENT_GIVEN its header is in `header`. An act that was going on has ended, whatever the answer. */
enum consent_answer monitor_act(struct partition *partition, enum consent_operation operation, struct range pages,
                                const uint8_t *consent, const uint8_t **header);
/* The act's next page, sealed, or once more the last one. */
enum consent_answer monitor_page(struct partition *partition, uint64_t page, uint64_t *version, const uint8_t **sealed);

/* Sign what was measured, for somebody's nonce: docs/spec/microhypervisor-channel.md, 3; and have it quoted: the quote's length, 0
 * where no TPM does. */
size_t monitor_attest(const struct partition *partition, const uint8_t nonce[NONCE_SIZE], uint8_t signature[SIGNATURE_SIZE],
                      uint8_t quote[QUOTE_SIZE]);

const struct acts *monitor_acts(const struct partition *partition);
const char *monitor_says(enum consent_answer answer);

#endif
