/* L1's global interrupt flag (APM 2, 15.17), without an exit for each CLGI and STGI. The processor can keep the flag of a
 * guest, but its virtual GIF holds back virtual interrupts only (15.33.2), and L1's are real ones that reach it without
 * L0. So L1 runs behind a gate: enum gate in partition/partition.h. */
#ifndef MH_GIF_H
#define MH_GIF_H

#include "partition/partition.h"

void gif_reset(struct core *core);
void gif_follow_svme(struct core *core); /* EFER.SVME of L1 has changed */
bool gif_get(const struct core *core);
void gif_set(struct core *core, bool set);
void gif_shut(struct core *core); /* something waits for L1 to set it: L0 has to see that */
void gif_interrupt(struct core *core); /* EXIT_INTR of L1 */

#endif
