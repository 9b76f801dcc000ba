/* What the entries of proofs by EVA share: Frama-C's way to say "anything", and what libsodium wants of its arguments. */
#ifndef MH_ANY_H
#define MH_ANY_H

#include <__fc_builtin.h>

#include "lib/base.h"

/* Any bytes at all in *object. */
#define ANYTHING(object) Frama_C_make_unknown((char *)&(object), sizeof(object))

/* One of `least` to `most`, which the analysis does not tell apart. */
static inline uint64_t any_of(uint64_t least, uint64_t most)
{
    uint64_t value;
    ANYTHING(value);
    if (value < least || value > most) {
        value = least;
    }
    return value;
}

#endif
