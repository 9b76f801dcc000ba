/* A core that runs a partition: its loop, and what it is told. */
#ifndef MH_CORE_H
#define MH_CORE_H

#include "partition/partition.h"

extern struct core cores[MAX_CPUS];
extern unsigned core_count;

void core_prepare(struct core *core);   /* on the core itself, once */
_Noreturn void core_loop(struct core *core);
void core_order(struct core *core, enum order order);

void run_guest(uint64_t vmcb, uint64_t registers[16], bool host_if); /* cpu/run.S */
void wait_for_order(void);                                           /* boot/trap.S */
void take_nmi(void);

#endif
