/* The proof that partitions are apart: a walk over everything that is mapped, from the tables and from nothing else. */
#ifndef MH_CHECK_H
#define MH_CHECK_H

#include "memory/npt.h"

struct finding {
    enum { APART, HOLDS_L0, SHARED, NOT_ITS_OWN, BAD_TABLE } what;
    unsigned partition, other; /* indexes into spaces */
    uint64_t guest, host;
    uint64_t pages; /* of 4 KiB, looked at */
};

/* Walk the tables of all spaces. `l0` is L0's own memory: text, data, pools. A host page counts as shared if a second
 * space maps it, or owns it; `shown` pages are passed over if they can only be read and reached by no device. */
struct finding check_apart(const struct space *const spaces[], unsigned count, const struct range *l0, unsigned l0_count);

#endif
