#ifndef MH_TRAP_H
#define MH_TRAP_H

#include "lib/base.h"

#define VECTOR_CHANNEL 0x50 /* a byte came on the management channel's port */
#define VECTOR_WAKE 0x51    /* another core has something for the monitor */

void trap_init(void);
/* Sleep until one of the two above has come since the last call. Monitor core only, which takes interrupts nowhere else:
 * libsodium's objects keep data below the stack's end, where an interrupt at the same level would write. */
void monitor_sleep(void);

#endif
