/* A TPM's quote: what was booted here, and by which key this machine's monitor signs, said by a chip that the admin of the machine
 * does not command. docs/spec/microhypervisor-channel.md, 4. Monitor core only. */
#ifndef MH_QUOTE_H
#define MH_QUOTE_H

#include "lib/base.h"

/* A quote's greatest length, so that it fits into a reply beside what it is about. */
#define QUOTE_SIZE 800

/* At machine start: if there is a TPM, have it hold the monitor's key (its public half, 32 bytes), and make the key that quotes. */
void quote_begin(const uint8_t *key);

/* Have it quote for the SHA-256 of a statement; its length, 0 where no TPM does. */
size_t quote_take(const uint8_t digest[32], uint8_t at[QUOTE_SIZE]);

#endif
