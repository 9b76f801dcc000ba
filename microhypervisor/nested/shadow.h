/* Shadow nested page tables: L1's nested tables for an L2, translated to host addresses as L2 touches them. To L1 they
 * behave as a TLB does (APM 2, 15.16): what it changes in its tables need not be seen until it flushes. */
#ifndef MH_SHADOW_H
#define MH_SHADOW_H

#include "memory/npt.h"

#define SHADOW_ROOTS 4

struct shadow_root {
    bool used;
    uint64_t nested_cr3; /* what it is a translation of, and for which of L1's ASIDs */
    uint32_t asid;
    uint64_t root;
    uint64_t last_use;
};

struct shadow {
    struct frames frames; /* a core's own */
    struct shadow_root roots[SHADOW_ROOTS];
    uint64_t uses;
    bool flushed; /* something was taken away: the processor's TLB has to be flushed before the next VMRUN */
    uint64_t faults, flushes;
};

enum fault_result { FAULT_MAPPED, FAULT_L1 };

void shadow_init(struct shadow *shadow, struct range pool);
void shadow_flush(struct shadow *shadow, uint32_t asid); /* of one of L1's ASIDs */
void shadow_flush_all(struct shadow *shadow);

/* The index of the root for such tables and ASID; the one that was used longest ago makes room. */
unsigned shadow_root(struct shadow *shadow, uint64_t nested_cr3, uint32_t asid);

/* A nested page fault of L2 at `address`, with `info` as the processor tells it (APM 2, 15.25.6): map the page, or, if
 * L1's tables do not allow the access, say with which error L1 has to see it. Sets accessed and dirty in L1's tables. */
enum fault_result shadow_fault(struct shadow *shadow, unsigned root, const struct space *l1, uint64_t address,
                               uint64_t info, uint64_t *error);

#endif
