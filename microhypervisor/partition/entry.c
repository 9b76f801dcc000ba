#include "partition/entry.h"

#include "cpu/msr.h"
#include "memory/physical.h"
#include "nested/gif.h"
#include "nested/nested.h"

#define CODE_32 0xc9b /* attributes as in APM 2, 15.5.1: present, accessed code, 32 bits, in pages */
#define DATA_32 0xc93
#define CODE_16 0x09b
#define DATA_16 0x093
#define TASK 0x08b
#define TABLE 0x082

static struct segment segment(uint16_t selector, uint16_t attributes, uint32_t limit, uint64_t base)
{
    return (struct segment){selector, attributes, limit, base};
}

/* What L0 must see, whatever the partition is. */
static void set_intercepts(struct core *core)
{
    struct vmcb_control *control = &core->vmcb->control;
    control->intercept[ICEPT_EXCEPTION] = ICEPT(VECTOR_MC);
    control->intercept[ICEPT_MISC1] = ICEPT(EXIT_NMI) | ICEPT(EXIT_SMI) | ICEPT(EXIT_INIT) | ICEPT(EXIT_RDPMC) |
                                      ICEPT(EXIT_CPUID) | ICEPT(EXIT_RSM) | ICEPT(EXIT_INVD) | ICEPT(EXIT_INVLPGA) |
                                      ICEPT(EXIT_IOIO) | ICEPT(EXIT_MSR) | ICEPT(EXIT_SHUTDOWN);
    control->intercept[ICEPT_MISC2] = ICEPT(EXIT_VMRUN) | ICEPT(EXIT_VMMCALL) | ICEPT(EXIT_VMLOAD) |
                                      ICEPT(EXIT_VMSAVE) | ICEPT(EXIT_STGI) | ICEPT(EXIT_CLGI) | ICEPT(EXIT_SKINIT) |
                                      ICEPT(EXIT_MONITOR) | ICEPT(EXIT_MWAIT) | ICEPT(EXIT_MWAIT_ARMED);
    control->iopm = (uint64_t)core->partition->iopm;
    control->msrpm = (uint64_t)core->partition->msrpm;
    control->asid = 1;
    control->tlb_control = TLB_FLUSH_ALL;
    control->nested_control = 1;
    control->nested_cr3 = core->partition->space.root;
}

static void reset(struct core *core)
{
    memset(core->vmcb, 0, sizeof(*core->vmcb));
    set_intercepts(core);
    struct vmcb_save *save = &core->vmcb->save;
    save->es = save->ss = save->ds = save->fs = save->gs = segment(0, DATA_16, 0xffff, 0);
    save->gdtr = save->idtr = segment(0, 0, 0xffff, 0);
    save->ldtr = segment(0, TABLE, 0xffff, 0);
    save->tr = segment(0, TASK, 0xffff, 0);
    save->efer = EFER_SVME;
    save->cr0 = CR0_ET;
    save->dr6 = 0xffff0ff0;
    save->dr7 = 0x400;
    save->rflags = 2;
    save->pat = 0x0007040600070406ull;
    memset(core->registers, 0, sizeof(core->registers));
    core->nmi_pending = core->in_nested = core->svm_enabled = false;
    gif_reset(core);
    core->hsave = 0;
    core->apic_destination = core->apic_logical = 0;
    core->pci_address = 0;
    nested_reset(core);
    msr_write(0xc0000103, 0); /* TSC_AUX is not switched */
    msr_write(0x1d9, 0);      /* nor debug control */
}

void core_enter_kernel(struct core *core)
{
    reset(core);
    struct vmcb_save *save = &core->vmcb->save;
    save->cs = segment(0x10, CODE_32, 0xffffffff, 0);
    save->es = save->ss = save->ds = segment(0x18, DATA_32, 0xffffffff, 0);
    save->cr0 = CR0_ET | CR0_PE;
    save->rip = core->partition->entry;
    core->registers[RSI] = GUEST_BOOT_PARAMS;
    memset(&core->statistics, 0, sizeof(core->statistics));
}

void core_enter_real_mode(struct core *core, uint8_t vector)
{
    reset(core);
    core->vmcb->save.cs = segment((uint16_t)(vector << 8), CODE_16, 0xffff, (uint64_t)vector << 12);
}
