/* monitor/quote.c and devices/tis.c: a TPM whose registers say anything whenever they are read, and time that goes as it likes.
 * What is written to its registers is not looked at. */
#include "monitor/quote.h"

#include "devices/tis.h"
#include "proofs/any.h"

uint64_t tsc_khz;
static uint8_t key[32], digest[32], quote[QUOTE_SIZE];

/*@ requires \valid(out + (0 .. 31)) && \valid_read(in + (0 .. inlen - 1));
    assigns out[0 .. 31] \from in[0 .. inlen - 1];
    assigns \result \from \nothing;
    ensures \initialized(out + (0 .. 31)); */
int crypto_hash_sha256(unsigned char *out, const unsigned char *in, unsigned long long inlen);

void log_line(const char *pattern, ...)
{
    (void)pattern;
}

uint64_t tsc_read(void)
{
    return any_of(0, UINT64_MAX);
}

uint8_t tis_read8(uint32_t at)
{
    (void)at;
    return (uint8_t)any_of(0, UINT8_MAX);
}

uint32_t tis_read32(uint32_t at)
{
    (void)at;
    return (uint32_t)any_of(0, UINT32_MAX);
}

void tis_write8(uint32_t at, uint8_t value)
{
    (void)at, (void)value;
}

void tis_write32(uint32_t at, uint32_t value)
{
    (void)at, (void)value;
}

/* A quote is asked for any number of times: what the second leaves, all later ones find. */
void eva_quote(void)
{
    ANYTHING(key);
    ANYTHING(digest);
    tsc_khz = any_of(0, UINT64_MAX);
    quote_begin(key);
    while (any_of(0, 1)) {
        size_t length = quote_take(digest, quote);
        //@ assert fits: length <= QUOTE_SIZE;
    }
}
