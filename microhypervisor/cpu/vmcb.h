/* The virtual machine control block, [APM] volume 2, appendix B, and the bits of its fields that are used here. */
#ifndef MH_VMCB_H
#define MH_VMCB_H

#include "lib/base.h"

/* Words of the intercept vector; exit codes below 0xc0 are its bits, in order: code / 32 is the word. */
enum { ICEPT_CR, ICEPT_DR, ICEPT_EXCEPTION, ICEPT_MISC1, ICEPT_MISC2, ICEPT_MISC3, ICEPT_WORDS };

enum exit_code {
    EXIT_EXCEPTION = 0x40,
    EXIT_INTR = 0x60,
    EXIT_NMI = 0x61,
    EXIT_SMI = 0x62,
    EXIT_INIT = 0x63,
    EXIT_VINTR = 0x64,
    EXIT_RDPMC = 0x6f,
    EXIT_CPUID = 0x72,
    EXIT_RSM = 0x73,
    EXIT_INVD = 0x76,
    EXIT_HLT = 0x78,
    EXIT_INVLPGA = 0x7a,
    EXIT_IOIO = 0x7b,
    EXIT_MSR = 0x7c,
    EXIT_SHUTDOWN = 0x7f,
    EXIT_VMRUN = 0x80,
    EXIT_VMMCALL = 0x81,
    EXIT_VMLOAD = 0x82,
    EXIT_VMSAVE = 0x83,
    EXIT_STGI = 0x84,
    EXIT_CLGI = 0x85,
    EXIT_SKINIT = 0x86,
    EXIT_MONITOR = 0x8a,
    EXIT_MWAIT = 0x8b,
    EXIT_MWAIT_ARMED = 0x8c,
    EXIT_NPF = 0x400,
};
#define EXIT_INVALID UINT64_MAX

#define ICEPT(code) (1u << ((code) & 31))

/* vintr (APM 2, 15.21) */
#define V_TPR 0xffull
#define V_IRQ (1ull << 8)
#define V_GIF (1ull << 9)
#define V_INTR_MASKING (1ull << 24)
#define V_GIF_ENABLE (1ull << 25)

/* Events that are injected, or were being delivered (APM 2, 15.20) */
#define EVENT_VALID (1ull << 31)
#define EVENT_HAS_ERROR (1ull << 11)
#define EVENT_NMI (2ull << 8)
#define EVENT_EXCEPTION (3ull << 8)
#define VECTOR_UD 6
#define VECTOR_GP 13
#define VECTOR_MC 18

/* Nested page fault errors, exit_info1 (APM 2, 15.25.6) */
#define NPF_PRESENT (1ull << 0)
#define NPF_WRITE (1ull << 1)
#define NPF_USER (1ull << 2)
#define NPF_RESERVED (1ull << 3)
#define NPF_FETCH (1ull << 4)
#define NPF_FINAL (1ull << 32)
#define NPF_TABLE (1ull << 33)

#define VIRTUALIZE_LOAD_SAVE 2 /* lbr_control: VMLOAD and VMSAVE are the guest's, in its own addresses (APM 2, 15.33.1) */

#define TLB_KEEP 0
#define TLB_FLUSH_ALL 1

struct segment {
    uint16_t selector, attributes;
    uint32_t limit;
    uint64_t base;
};

struct vmcb_control {
    uint32_t intercept[ICEPT_WORDS];
    uint8_t reserved0[0x3c - 0x18];
    uint16_t pause_threshold, pause_count;
    uint64_t iopm, msrpm, tsc_offset;
    uint32_t asid;
    uint8_t tlb_control, reserved1[3];
    uint64_t vintr;
    uint64_t interrupt_state; /* bit 0: interrupt shadow */
    uint64_t exit_code, exit_info1, exit_info2, exit_int_info;
    uint64_t nested_control; /* bit 0: nested paging */
    uint64_t avic_bar, ghcb;
    uint64_t event_injection, nested_cr3, lbr_control;
    uint32_t clean, reserved2;
    uint64_t next_rip;
    uint8_t fetched[16];
    uint8_t reserved3[0x400 - 0xe0];
};

struct vmcb_save {
    struct segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
    uint8_t reserved0[0xcb - 0xa0];
    uint8_t cpl;
    uint32_t reserved1;
    uint64_t efer;
    uint8_t reserved2[0x148 - 0xd8];
    uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
    uint8_t reserved3[0x1d8 - 0x180];
    uint64_t rsp;
    uint64_t s_cet, ssp, isst_addr; /* shadow stacks: hidden by CPUID */
    uint64_t rax;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, cr2;
    uint8_t reserved5[0x268 - 0x248];
    uint64_t pat, debug_control, branch_from, branch_to, exception_from, exception_to;
    uint8_t reserved6[0xc00 - 0x298];
};

/* What VMRUN and #VMEXIT use of the two; the rest of the page is reserved (APM 2, appendix B). */
#define CONTROL_SIZE offsetof(struct vmcb_control, reserved3)
#define SAVE_SIZE offsetof(struct vmcb_save, reserved6)

struct vmcb {
    struct vmcb_control control;
    struct vmcb_save save;
};

_Static_assert(offsetof(struct vmcb_control, iopm) == 0x40, "vmcb");
_Static_assert(offsetof(struct vmcb_control, vintr) == 0x60, "vmcb");
_Static_assert(offsetof(struct vmcb_control, event_injection) == 0xa8, "vmcb");
_Static_assert(offsetof(struct vmcb_control, next_rip) == 0xc8, "vmcb");
_Static_assert(offsetof(struct vmcb, save) == 0x400, "vmcb");
_Static_assert(offsetof(struct vmcb_save, efer) == 0xd0, "vmcb");
_Static_assert(offsetof(struct vmcb_save, rip) == 0x178, "vmcb");
_Static_assert(offsetof(struct vmcb_save, rax) == 0x1f8, "vmcb");
_Static_assert(offsetof(struct vmcb_save, cr2) == 0x240, "vmcb");
_Static_assert(offsetof(struct vmcb_save, pat) == 0x268, "vmcb");
_Static_assert(sizeof(struct vmcb_control) == 0x400, "vmcb");
_Static_assert(sizeof(struct vmcb) == 4096, "vmcb");

static inline bool intercepts(const struct vmcb_control *control, uint64_t code)
{
    return code < ICEPT_WORDS * 32 && (control->intercept[code / 32] & ICEPT(code));
}

#endif
