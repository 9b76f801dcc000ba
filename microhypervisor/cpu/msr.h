#ifndef MH_MSR_H
#define MH_MSR_H

#include "partition/partition.h"

#define MSRPM_WORDS 1024 /* 8 KiB: two bits for each MSR of four ranges (APM 2, 15.11) */

/* Everything intercepted but the list of what a partition may have directly. */
void msr_permissions(uint64_t map[MSRPM_WORDS]);
/* L2's: intercepted if L1 does, or L0. `l1` is what L1's map holds. */
void msr_permissions_nested(uint64_t map[MSRPM_WORDS], const uint64_t l1[MSRPM_WORDS]);
/* The first of the two bits of an MSR in such a map (reading; the next one is writing), or -1 beyond the ranges. */
int msr_bit(uint32_t msr);

/* An intercepted MSR; false: refused, #GP. */
bool msr_get(struct core *core, uint32_t msr, uint64_t *value);
bool msr_set(struct core *core, uint32_t msr, uint64_t value);
bool msr_svm_enabled(const struct core *core);

#endif
