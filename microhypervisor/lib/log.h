/* L0's log, on the first serial port. One line a call; cores do not mix theirs. Patterns: lib/format.h. */
#ifndef MH_LOG_H
#define MH_LOG_H

#include "lib/base.h"

void log_line(const char *pattern, ...);
/* L0 itself is broken: say so and stop this core. */
_Noreturn void panic(const char *pattern, ...);

#endif
