/* Page frames for tables. Each partition has a pool of its own, so that one that runs out stops no other. */
#ifndef MH_FRAMES_H
#define MH_FRAMES_H

#include "lib/base.h"

struct frames {
    struct range all;
    uint64_t fresh;    /* the first frame that was never given out */
    uint64_t returned; /* a list through the first word of each returned frame; NOWHERE ends it */
    uint64_t free;     /* how many are left */
};

void frames_init(struct frames *frames, struct range all);
/*@ predicate whole_pages(struct range r) = r.start % PAGE_SIZE == 0 && r.end % PAGE_SIZE == 0 && r.end <= 1 << 52;
    predicate bare(struct frames *frames) = whole_pages(frames->all) && frames->returned == NOWHERE &&
        frames->fresh % PAGE_SIZE == 0 && frames->all.start <= frames->fresh <= frames->all.end; */

/* A zeroed frame, or NOWHERE if there is none left. */
/*@ requires \valid(frames) && bare(frames) && \separated(frames, physical + (0 .. PHYSICAL_WORDS - 1));
    assigns frames->fresh, frames->free, physical[\at(frames->fresh, Pre) / 8 .. \at(frames->fresh, Pre) / 8 + 511];
    ensures bare(frames);
    ensures \result == NOWHERE ||
        (\result == \old(frames->fresh) && \result % PAGE_SIZE == 0 && \result + PAGE_SIZE <= frames->all.end);
    ensures frames->all == \old(frames->all) && frames->fresh >= \old(frames->fresh); */
uint64_t frame_take(struct frames *frames);
void frame_return(struct frames *frames, uint64_t frame);

#endif
