/* The machine's TPM, by its FIFO registers (TCG, PC Client Platform TPM Profile, 6: "TIS"), at locality 0. No partition has them:
 * they count as L0's in the self-check. Monitor core only. */
#ifndef MH_TIS_H
#define MH_TIS_H

#include "lib/base.h"

#define TIS_ADDRESS 0xfed40000ull
#define TIS_SIZE 0x5000ull /* five localities, a page each */

/* Whether there is one, and it is ours. */
bool tis_start(void);

/* Let it do one command. The length of its answer, which fits; 0 if it gave none in time, or a longer one. */
size_t tis_transfer(const uint8_t *command, size_t length, uint8_t *answer, size_t size);

/* Registers of locality 0: 1 byte, or 4. */
#ifdef MH_HOST
uint8_t tis_read8(uint32_t at); /* the tests' TPM */
uint32_t tis_read32(uint32_t at);
void tis_write8(uint32_t at, uint8_t value);
void tis_write32(uint32_t at, uint32_t value);
#else
static inline uint8_t tis_read8(uint32_t at)
{
    return *(volatile uint8_t *)(TIS_ADDRESS + at);
}

static inline uint32_t tis_read32(uint32_t at)
{
    return *(volatile uint32_t *)(TIS_ADDRESS + at);
}

static inline void tis_write8(uint32_t at, uint8_t value)
{
    *(volatile uint8_t *)(TIS_ADDRESS + at) = value;
}

static inline void tis_write32(uint32_t at, uint32_t value)
{
    *(volatile uint32_t *)(TIS_ADDRESS + at) = value;
}
#endif

#endif
