/* A walk of L1's nested page tables (APM 2, 15.25 and 5.3). */
#ifndef MH_NESTED_WALK_H
#define MH_NESTED_WALK_H

#include "memory/npt.h"

struct nested_walk {
    uint64_t page;  /* L1's address of the 4 KiB page */
    unsigned level; /* of the entry that maps it: 1, 2 or 3 */
    bool may_write; /* L1 allows writing, and knows already that the page is dirty */
    bool may_execute;
    uint64_t error; /* if it is a fault: present and reserved, as in exit_info1 */
};

/* False: a fault. Sets accessed in each entry, and dirty if `write`. Physical addresses above 2^address_bits are reserved. */
bool nested_walk(struct nested_walk *walk, const struct space *l1, uint64_t nested_cr3, uint64_t address, bool write,
                 bool fetch, unsigned address_bits);

#endif
