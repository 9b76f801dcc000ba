#include "memory/frames.h"

#include "memory/physical.h"

void frames_init(struct frames *frames, struct range all)
{
    frames->all = all;
    frames->fresh = all.start;
    frames->returned = NOWHERE;
    frames->free = (all.end - all.start) / PAGE_SIZE;
}

uint64_t frame_take(struct frames *frames)
{
    uint64_t frame = frames->returned;
    if (frame != NOWHERE) {
        frames->returned = *(uint64_t *)at_physical(frame);
    } else if (frames->fresh < frames->all.end) {
        frame = frames->fresh;
        frames->fresh += PAGE_SIZE;
    } else {
        return NOWHERE;
    }
    frames->free--;
    memset(at_physical(frame), 0, PAGE_SIZE);
    return frame;
}

void frame_return(struct frames *frames, uint64_t frame)
{
    *(uint64_t *)at_physical(frame) = frames->returned;
    frames->returned = frame;
    frames->free++;
}
