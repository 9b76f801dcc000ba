/* Nested SVM: what L1 sees when it executes VMRUN and its relatives. */
#ifndef MH_NESTED_H
#define MH_NESTED_H

#include "partition/partition.h"

struct nested *nested_of(unsigned core_number);
void nested_reset(struct core *core);

/* L1's instructions. `length` is the instruction's, to go on behind it. */
void nested_run(struct core *core, uint64_t length);
void nested_load_save(struct core *core, bool load, uint64_t length);
void nested_flush(struct core *core); /* INVLPGA */

/* An exit of L2: true if it was dealt with or given to L1; false if it is L0's, as an exit of L1 would be. */
bool nested_exit(struct core *core, uint64_t code);
/* Whether L1 wants to see such an exit of its L2, and showing it to L1. */
bool nested_intercepts(const struct core *core, uint64_t code);
void nested_reflect(struct core *core, uint64_t code, uint64_t info1, uint64_t info2);
/* RFLAGS.IF for VMRUN of L2: L1's own when it executed VMRUN, if L2's interrupts are masked apart (APM 2, 15.21.1). */
bool nested_host_if(const struct core *core);
/* Whether shadow pages were taken away since this was last asked. */
bool nested_needs_flush(struct core *core);

#endif
