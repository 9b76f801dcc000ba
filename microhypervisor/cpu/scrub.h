#ifndef MH_SCRUB_H
#define MH_SCRUB_H

/* Put the registers that VMRUN does not switch, and that L0 does not use, to what they are after a reset: x87, SSE, AVX and
 * what else XSAVE knows, XCR0, debug addresses. So a partition finds nothing of the one that ran before it. */
void scrub_registers(void);

#endif
