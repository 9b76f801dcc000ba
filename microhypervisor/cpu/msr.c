#include "cpu/msr.h"

#include "devices/apic.h"
#include "nested/gif.h"

#define READ 1
#define BOTH 3

/* What partitions have directly: the state that VMLOAD and VMRUN switch; the clock and what is constant, for reading. */
static const struct {
    uint32_t msr;
    unsigned rights;
} passed[] = {
    {0x10, READ},       /* TSC */
    {0x174, BOTH},      /* SYSENTER_CS */
    {0x175, BOTH},      /* SYSENTER_ESP */
    {0x176, BOTH},      /* SYSENTER_EIP */
    {0x1d9, READ},      /* debug control, which KVM reads before each entry: 0, since nobody writes it */
    {0x277, BOTH},      /* PAT: with nested paging the VMCB's (APM 2, 15.25.2) */
    {0xc0000081, BOTH}, /* STAR */
    {0xc0000082, BOTH}, /* LSTAR */
    {0xc0000083, BOTH}, /* CSTAR */
    {0xc0000084, BOTH}, /* SFMASK */
    {0xc0000100, BOTH}, /* FS_BASE */
    {0xc0000101, BOTH}, /* GS_BASE */
    {0xc0000102, BOTH}, /* KERNEL_GS_BASE */
    {0xc0000103, BOTH}, /* TSC_AUX: cleared at each start */
};

/* What is answered for MSRs that every AMD processor has and kernels read without asking. Writing them does nothing. */
static const struct {
    uint32_t msr;
    uint64_t value;
} fixed[] = {
    {0x17, 0},         /* platform */
    {0x8b, 0},         /* microcode: there is nothing to update from here */
    {0xfe, 0x400},     /* MTRRs: write combining, no variable and no fixed ranges */
    {0x1a0, 0},        /* Intel's, read by some */
    {0x2ff, 0x806},    /* MTRRs on, everything write-back: devices are uncached by the nested tables */
    {0x1d9, 0},        /* debug control */
    {0xc0010015, 0},   /* HWCR */
    {0xc0010055, 0},   /* interrupt pending */
    {0xc0011029, 2},   /* LFENCE serializes */
    {MSR_VM_CR, 0},    /* SVM is not locked */
};

int msr_bit(uint32_t msr)
{
    static const uint32_t starts[] = {0, 0xc0000000, 0xc0010000};
    for (unsigned i = 0; i < COUNT(starts); i++) {
        if (msr >= starts[i] && msr - starts[i] < 0x2000) {
            return (int)(i * 0x4000 + (msr - starts[i]) * 2);
        }
    }
    return -1;
}

void msr_permissions(uint64_t map[MSRPM_WORDS])
{
    memset(map, 0xff, MSRPM_WORDS * sizeof(map[0]));
    for (unsigned i = 0; i < COUNT(passed); i++) {
        int bit = msr_bit(passed[i].msr);
        map[bit / 64] &= ~((uint64_t)passed[i].rights << (bit % 64));
    }
}

void msr_permissions_nested(uint64_t map[MSRPM_WORDS], const uint64_t l1[MSRPM_WORDS])
{
    for (unsigned i = 0; i < COUNT(passed); i++) {
        int bit = msr_bit(passed[i].msr);
        uint64_t mask = (uint64_t)passed[i].rights << (bit % 64);
        map[bit / 64] = (map[bit / 64] & ~mask) | (l1[bit / 64] & mask);
    }
}

bool msr_svm_enabled(const struct core *core)
{
    return core->svm_enabled;
}

static uint64_t apic_base(const struct core *core)
{
    return APIC_ADDRESS | 1u << 11 | (core->index == 0 ? 1u << 8 : 0); /* enabled; the first one boots */
}

bool msr_get(struct core *core, uint32_t msr, uint64_t *value)
{
    switch (msr) {
    case MSR_APIC_BASE:
        *value = apic_base(core);
        return true;
    case MSR_EFER:
        *value = core->vmcb->save.efer & ~(core->svm_enabled ? 0 : EFER_SVME);
        return !core->in_nested;
    case MSR_VM_HSAVE_PA:
        *value = core->hsave;
        return true;
    }
    for (unsigned i = 0; i < COUNT(fixed); i++) {
        if (fixed[i].msr == msr) {
            *value = fixed[i].value;
            return true;
        }
    }
    return false;
}

/* EFER of L1: SVME stays set in the VMCB, as VMRUN demands (APM 2, 15.5.1), and is L1's to see and change apart. */
static bool set_efer(struct core *core, uint64_t value)
{
    const uint64_t known = 1 | EFER_LME | EFER_LMA | 1 << 11 | EFER_SVME | 1 << 13 | 1 << 14;
    struct vmcb_save *save = &core->vmcb->save;
    bool lme_under_paging = (save->cr0 & CR0_PG) && ((save->efer ^ value) & EFER_LME);
    if (core->in_nested || (value & ~known) || lme_under_paging ||
        !returns_whole(value, save->cr0, save->cr4)) {
        return false;
    }
    core->svm_enabled = value & EFER_SVME;
    save->efer = (value & ~EFER_LMA) | (save->efer & EFER_LMA) | EFER_SVME;
    core->vmcb->control.clean = 0;
    gif_follow_svme(core);
    return true;
}

bool msr_set(struct core *core, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case 0x10: /* the clock is the machine's */
        return true;
    case MSR_APIC_BASE: /* it stays where it is, and as it is */
        return value == apic_base(core);
    case MSR_EFER:
        return set_efer(core, value);
    case MSR_VM_HSAVE_PA: /* L0 never writes there; it keeps L1's state itself */
        if ((value & (PAGE_SIZE - 1)) || npt_span(&core->partition->space, value, PAGE_SIZE, true) == NOWHERE) {
            return false;
        }
        core->hsave = value;
        return true;
    }
    for (unsigned i = 0; i < COUNT(fixed); i++) {
        if (fixed[i].msr == msr) {
            return true;
        }
    }
    return false;
}
