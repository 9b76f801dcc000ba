#include "nested/gif.h"

#include "cpu/guest.h"

#define CPUID_SVM 0x8000000a
#define VIRTUAL_LOAD_SAVE (1u << 15) /* of its EDX */
#define VIRTUAL_GIF (1u << 16)
#define HLT 0xf4

static void set_intercept(struct core *core, uint64_t code, bool on)
{
    uint32_t *word = &core->vmcb->control.intercept[code / 32];
    *word = on ? *word | ICEPT(code) : *word & ~ICEPT(code);
}

/* What the processor does by itself for who has switched SVM on. */
static bool processor_does(const struct core *core, uint32_t feature)
{
    return core->svm_enabled && (core->svm_features & feature);
}

/* Behind a gate that is not open, L1's interrupts are masked apart from its IF, and its TPR is the VMCB's (15.21.1). */
static void set_gate(struct core *core, enum gate gate)
{
    uint64_t *vintr = &core->vmcb->control.vintr;
    if (core->gate == GATE_OPEN && gate != GATE_OPEN) {
        *vintr = (*vintr & ~V_TPR) | V_INTR_MASKING | cr8_read();
    } else if (core->gate != GATE_OPEN && gate == GATE_OPEN) {
        cr8_write(*vintr & V_TPR & 0xf);
        *vintr &= ~(V_INTR_MASKING | V_TPR);
    }
    core->gate = gate;
    bool by_itself = processor_does(core, VIRTUAL_GIF);
    set_intercept(core, EXIT_INTR, gate == GATE_WATCHED);
    set_intercept(core, EXIT_CLGI, !by_itself || gate == GATE_OPEN);
    set_intercept(core, EXIT_STGI, !by_itself || gate == GATE_SHUT);
}

void gif_follow_svme(struct core *core)
{
    bool load_save = processor_does(core, VIRTUAL_LOAD_SAVE);
    core->vmcb->control.lbr_control = load_save ? VIRTUALIZE_LOAD_SAVE : 0;
    set_intercept(core, EXIT_VMLOAD, !load_save);
    set_intercept(core, EXIT_VMSAVE, !load_save);
    core->vmcb->control.vintr &= ~V_GIF_ENABLE;
    core->vmcb->control.vintr |= processor_does(core, VIRTUAL_GIF) ? V_GIF_ENABLE : 0;
    set_gate(core, core->gate);
}

void gif_reset(struct core *core)
{
    core->svm_features = cpuid_read(CPUID_SVM, 0).d;
    core->gate = GATE_OPEN;
    core->vmcb->control.vintr = V_GIF;
    gif_follow_svme(core);
}

bool gif_get(const struct core *core)
{
    return core->vmcb->control.vintr & V_GIF;
}

void gif_set(struct core *core, bool set)
{
    uint64_t *vintr = &core->vmcb->control.vintr;
    *vintr = set ? *vintr | V_GIF : *vintr & ~V_GIF;
    set_gate(core, set ? GATE_OPEN : GATE_WATCHED);
}

void gif_shut(struct core *core)
{
    set_gate(core, GATE_SHUT);
}

void gif_interrupt(struct core *core)
{
    uint8_t next;
    if (!gif_get(core)) {
        set_gate(core, GATE_SHUT);
        return;
    }
    set_gate(core, GATE_OPEN);
    /* Between `sti` and `hlt`: the interrupt ends the sleep that it must not come before. QEMU's processor would forget
     * the shadow of `sti` at VMRUN and take the interrupt first. */
    bool shadow = core->vmcb->control.interrupt_state & 1;
    if (shadow && guest_fetch(core, &next, 1) == 1 && next == HLT) {
        guest_skip(core, 1);
    }
}
