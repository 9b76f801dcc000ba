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
/* A zeroed frame, or NOWHERE if there is none left. */
uint64_t frame_take(struct frames *frames);
void frame_return(struct frames *frames, uint64_t frame);

#endif
