/* What annotations in the C call `physical`: memory as words. */
#ifndef MH_WORDS_H
#define MH_WORDS_H

#include <stddef.h>
#include <stdint.h>

#define PHYSICAL_WORDS (1ull << 49) /* 2^52 bytes: what an entry can hold (APM 2, 5.3) */

extern uint64_t physical[PHYSICAL_WORDS];

#endif
