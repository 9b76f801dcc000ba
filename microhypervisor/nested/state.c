#include "nested/state.h"

void state_copy_loaded(struct vmcb_save *to, const struct vmcb_save *from)
{
    to->fs = from->fs;
    to->gs = from->gs;
    to->ldtr = from->ldtr;
    to->tr = from->tr;
    to->star = from->star;
    to->lstar = from->lstar;
    to->cstar = from->cstar;
    to->sfmask = from->sfmask;
    to->kernel_gs_base = from->kernel_gs_base;
    to->sysenter_cs = from->sysenter_cs;
    to->sysenter_esp = from->sysenter_esp;
    to->sysenter_eip = from->sysenter_eip;
}

void state_copy_run(struct vmcb_save *to, const struct vmcb_save *from)
{
    to->es = from->es;
    to->cs = from->cs;
    to->ss = from->ss;
    to->ds = from->ds;
    to->gdtr = from->gdtr;
    to->idtr = from->idtr;
    to->cpl = from->cpl;
    to->efer = from->efer;
    to->cr4 = from->cr4;
    to->cr3 = from->cr3;
    to->cr0 = from->cr0;
    to->dr7 = from->dr7;
    to->dr6 = from->dr6;
    to->rflags = from->rflags;
    to->rip = from->rip;
    to->rsp = from->rsp;
    to->rax = from->rax;
    to->cr2 = from->cr2;
    to->pat = from->pat;
}
