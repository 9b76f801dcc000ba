/* Put before every file of a proof by EVA: Frama-C's own contracts of the memory functions. Its parser knows no offsets in
 * static assertions, at which compilers have looked; atomic operations are plain ones: one core is looked at. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proofs/words.h"

#define _Static_assert(...)
#define __atomic_load_n(at, order) (*(at))
#define __atomic_store_n(at, value, order) (*(at) = (value))
#define __atomic_exchange_n(at, value, order) (*(at) = 0) /* a lock is free */
#define _Noreturn __attribute__((noreturn))
