/* How a partition's pool of frames is divided: its own tables first, then a part for each core's shadow tables. */
#ifndef MH_POOL_H
#define MH_POOL_H

#include "lib/base.h"

#define POOL_BASE 0x100000ull
#define POOL_CORE 0x400000ull

static inline struct range pool_of_space(struct range pool)
{
    return (struct range){pool.start, pool.start + POOL_BASE};
}

static inline struct range pool_of_core(struct range pool, unsigned index)
{
    uint64_t start = pool.start + POOL_BASE + index * POOL_CORE;
    return (struct range){start, start + POOL_CORE};
}

#endif
