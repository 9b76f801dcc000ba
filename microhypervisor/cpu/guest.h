/* What an exit's handler does to the guest that it came from: L1, or the L2 that L1 runs. */
#ifndef MH_GUEST_H
#define MH_GUEST_H

#include "partition/partition.h"

static inline struct vmcb *current_vmcb(const struct core *core)
{
    return core->in_nested ? core->nested_vmcb : core->vmcb;
}

static inline uint64_t *guest_register(struct core *core, unsigned number)
{
    struct vmcb_save *save = &current_vmcb(core)->save;
    return number == RAX ? &save->rax : number == RSP ? &save->rsp : &core->registers[number & 15];
}

/* Go on behind the instruction; with it ends the shadow of a sti before it (APM 2, 15.21.5). */
static inline void guest_skip(struct core *core, uint64_t length)
{
    struct vmcb *vmcb = current_vmcb(core);
    vmcb->save.rip += length;
    vmcb->control.interrupt_state &= ~1ull;
}

/* Raise an exception. In L2 it is L1's first, if L1 intercepts it. Returns nothing: what is raised cannot fail. */
void guest_raise(struct core *core, unsigned vector, bool has_error, uint32_t error);

static inline void guest_fault(struct core *core)
{
    guest_raise(core, VECTOR_GP, true, 0);
}

/* Up to `length` bytes of L1's instruction at RIP; how many could be read. */
unsigned guest_fetch(const struct core *core, uint8_t *bytes, unsigned length);

#endif
