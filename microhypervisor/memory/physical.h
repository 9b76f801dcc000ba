/* Where physical memory is seen. L0 maps it one to one (boot/start.S); tests on the host put an arena there. */
#ifndef MH_PHYSICAL_H
#define MH_PHYSICAL_H

#include "lib/base.h"

#ifdef MH_HOST
void *at_physical(uint64_t address);
#else
static inline void *at_physical(uint64_t address)
{
    return (void *)address;
}
#endif

#endif
