#ifndef MH_CORES_H
#define MH_CORES_H

#include "lib/base.h"

/* Start so many cores besides this one, one after another. How many came. */
unsigned cores_start(unsigned wanted);

#endif
