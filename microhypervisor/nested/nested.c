/* VMRUN and #VMEXIT as L1 sees them (APM 2, 15.5 and 15.6). While L1's L2 runs, L1's own state waits in L1's VMCB
 * (`core->vmcb`), as the processor keeps a host's in VM_HSAVE_PA, and L2 runs in `core->nested_vmcb`. */
#include "nested/nested.h"

#include "cpu/guest.h"
#include "cpu/msr.h"
#include "memory/physical.h"
#include "nested/gif.h"
#include "nested/shadow.h"
#include "nested/state.h"
#include "partition/core.h"
#include "partition/pool.h"

#define ASID_SHADOW 2 /* and those behind it: one for each root, so that L2's TLB outlives its exits */
#define ASID_UNNESTED (ASID_SHADOW + SHADOW_ROOTS)

struct nested {
    uint64_t msrpm[MSRPM_WORDS]; /* L2's */
    struct vmcb_control control; /* what L1 put into its VMCB, as it was at VMRUN: L1 may write there meanwhile */
    uint64_t vmcb;               /* where that is, guest physical */
    bool host_if;
    unsigned root;
    struct shadow shadow;
};

static struct nested all[MAX_CPUS] __attribute__((aligned(4096)));

struct nested *nested_of(unsigned core_number)
{
    return &all[core_number];
}

void nested_reset(struct core *core)
{
    shadow_init(&core->nested->shadow, pool_of_core(core->partition->pool_range, core->index));
    msr_permissions(core->nested->msrpm);
}

static bool nests_paging(const struct nested *nested)
{
    return nested->control.nested_control & 1;
}

bool nested_host_if(const struct core *core)
{
    return core->nested->host_if;
}

void nested_flush(struct core *core)
{
    shadow_flush_all(&core->nested->shadow);
    core->flush_tlb = true;
}

bool nested_needs_flush(struct core *core)
{
    bool needs = core->nested->shadow.flushed;
    core->nested->shadow.flushed = false;
    core->statistics.shadow_flushes += needs;
    return needs;
}

bool nested_intercepts(const struct core *core, uint64_t code)
{
    return code == EXIT_NPF || code == EXIT_INVALID || intercepts(&core->nested->control, code);
}

void nested_load_save(struct core *core, bool load, uint64_t length)
{
    uint64_t host = npt_span(&core->partition->space, core->vmcb->save.rax, PAGE_SIZE, true);
    if ((core->vmcb->save.rax & (PAGE_SIZE - 1)) || host == NOWHERE) {
        core->statistics.refused++;
        guest_fault(core);
        return;
    }
    struct vmcb *theirs = at_physical(host);
    if (load) {
        state_copy_loaded(&core->vmcb->save, &theirs->save);
    } else {
        state_copy_loaded(&theirs->save, &core->vmcb->save);
    }
    guest_skip(core, length);
}

/* What the processor cannot check for us, because L0 puts its own values there (15.5.1), and what it must not be given. */
static bool consistent(const struct core *core)
{
    const struct vmcb_control *control = &core->nested->control;
    const struct vmcb_save *save = &core->nested_vmcb->save;
    const struct space *space = &core->partition->space;
    bool maps = (control->msrpm & (PAGE_SIZE - 1)) == 0 && (control->iopm & (PAGE_SIZE - 1)) == 0;
    for (unsigned page = 0; page < 3; page++) {
        maps = maps && npt_translate(space, control->iopm + page * PAGE_SIZE, false) != NOWHERE;
        maps = maps && (page == 2 || npt_translate(space, control->msrpm + page * PAGE_SIZE, false) != NOWHERE);
    }
    bool paging = (control->nested_control & 1) == 0 || (control->nested_cr3 & (PAGE_SIZE - 1) & ~0x18ull) == 0;
    return intercepts(control, EXIT_VMRUN) && control->asid != 0 && maps && paging &&
           returns_whole(save->efer, save->cr0, save->cr4);
}

/* A bit of one of L1's permission maps; ones where it is not the partition's memory. */
static bool map_bit(const struct core *core, uint64_t map, unsigned bit)
{
    uint64_t host = npt_span(&core->partition->space, map + bit / 8, 1, false);
    return host == NOWHERE || (*(volatile uint8_t *)at_physical(host) & (1u << (bit % 8)));
}

static void merge_msrs(struct core *core)
{
    struct nested *nested = core->nested;
    const struct space *space = &core->partition->space;
    uint64_t low = npt_span(space, nested->control.msrpm, PAGE_SIZE, false);
    uint64_t high = npt_span(space, nested->control.msrpm + PAGE_SIZE, PAGE_SIZE, false);
    if (low != NOWHERE && high == low + PAGE_SIZE) {
        msr_permissions_nested(nested->msrpm, at_physical(low));
    } else {
        memset(nested->msrpm, 0xff, sizeof(nested->msrpm)); /* each one is looked up as it comes */
    }
}

static void choose_paging(struct core *core, struct vmcb_control *to)
{
    struct nested *nested = core->nested;
    const struct vmcb_control *from = &nested->control;
    to->nested_control = 1;
    if (!nests_paging(nested)) { /* L2's CR3 holds L1's addresses: L1's own nested tables serve */
        to->nested_cr3 = core->partition->space.root;
        to->asid = ASID_UNNESTED;
        core->flush_tlb = true;
        return;
    }
    if (from->tlb_control == TLB_FLUSH_ALL) {
        shadow_flush_all(&nested->shadow);
    } else if (from->tlb_control != TLB_KEEP) { /* 3 and 7: of this ASID (15.16.2) */
        shadow_flush(&nested->shadow, from->asid);
    }
    nested->root = shadow_root(&nested->shadow, from->nested_cr3, from->asid);
    to->nested_cr3 = nested->shadow.roots[nested->root].root;
    to->asid = ASID_SHADOW + nested->root;
}

static void build(struct core *core)
{
    const struct vmcb_control *from = &core->nested->control, *own = &core->vmcb->control;
    struct vmcb_control *to = &core->nested_vmcb->control;
    const uint64_t taken = V_TPR | V_IRQ | 0xf0000 | 1ull << 20 | V_INTR_MASKING | 0xffull << 32; /* no AVIC, no VGIF */
    memset(to, 0, CONTROL_SIZE);
    for (unsigned i = 0; i < ICEPT_WORDS; i++) {
        to->intercept[i] = from->intercept[i] | own->intercept[i];
    }
    to->intercept[ICEPT_MISC2] |= ICEPT(EXIT_VMLOAD) | ICEPT(EXIT_VMSAVE) | ICEPT(EXIT_STGI) | ICEPT(EXIT_CLGI);
    to->pause_threshold = from->pause_threshold;
    to->pause_count = from->pause_count;
    to->iopm = own->iopm;
    to->msrpm = own->msrpm;
    if (intercepts(from, EXIT_MSR)) {
        merge_msrs(core);
        to->msrpm = (uint64_t)core->nested->msrpm;
    }
    to->tsc_offset = from->tsc_offset;
    to->vintr = from->vintr & taken;
    to->interrupt_state = from->interrupt_state & 1;
    to->event_injection = from->event_injection;
    choose_paging(core, to);
    state_copy_loaded(&core->nested_vmcb->save, &core->vmcb->save); /* VMRUN does not load these (15.5.2) */
}

static struct vmcb *l1_vmcb(const struct core *core)
{
    return at_physical(npt_span(&core->partition->space, core->nested->vmcb, PAGE_SIZE, true));
}

void nested_run(struct core *core, uint64_t length)
{
    struct nested *nested = core->nested;
    nested->vmcb = core->vmcb->save.rax;
    if ((nested->vmcb & (PAGE_SIZE - 1)) ||
        npt_span(&core->partition->space, nested->vmcb, PAGE_SIZE, true) == NOWHERE) {
        core->statistics.refused++;
        guest_fault(core);
        return;
    }
    const struct vmcb *theirs = l1_vmcb(core);
    memcpy(&nested->control, &theirs->control, CONTROL_SIZE);
    guest_skip(core, length); /* L1 goes on behind it, after the exit */
    nested->host_if = core->vmcb->save.rflags & RFLAGS_IF;
    gif_set(core, true);
    memcpy(&core->nested_vmcb->save, &theirs->save, SAVE_SIZE);
    if (!consistent(core)) {
        core->statistics.refused++;
        l1_vmcb(core)->control.exit_code = EXIT_INVALID;
        gif_set(core, false);
        return;
    }
    core->statistics.nested_runs++;
    build(core);
    core->in_nested = true;
}

/* What of L2's state is still in the processor's registers when L1 goes on (15.6): neither VMRUN nor #VMEXIT moves it. */
static void keep_of_l2(struct vmcb_save *l1, const struct vmcb_save *l2)
{
    state_copy_loaded(l1, l2);
    l1->cr2 = l2->cr2;
    l1->dr6 = l2->dr6;
    l1->dr7 = 0x400;
}

/* #VMEXIT: L2's state into L1's VMCB, and L1 goes on with GIF clear. */
void nested_reflect(struct core *core, uint64_t code, uint64_t info1, uint64_t info2)
{
    const struct vmcb_control *from = &core->nested_vmcb->control;
    struct vmcb *theirs = l1_vmcb(core);
    if (code != EXIT_INVALID) { /* else the processor has taken nothing of it: L1 keeps what it had, and sees none of L0's */
        state_copy_run(&theirs->save, &core->nested_vmcb->save);
        keep_of_l2(&core->vmcb->save, &core->nested_vmcb->save);
    }
    theirs->control.vintr = (core->nested->control.vintr & ~(V_TPR | V_IRQ)) | (from->vintr & (V_TPR | V_IRQ));
    theirs->control.interrupt_state = from->interrupt_state;
    theirs->control.exit_info1 = info1;
    theirs->control.exit_info2 = info2;
    theirs->control.exit_int_info = from->exit_int_info;
    theirs->control.event_injection = 0;
    theirs->control.exit_code = code;
    core->in_nested = false;
    core->vmcb->control.event_injection = 0;
    core->statistics.nested_exits++;
    gif_set(core, false);
    if (code == EXIT_INTR) {
        gif_interrupt(core); /* there it is already */
    }
}

static bool reflect(struct core *core)
{
    const struct vmcb_control *control = &core->nested_vmcb->control;
    nested_reflect(core, control->exit_code, control->exit_info1, control->exit_info2);
    return true;
}

static bool fault(struct core *core)
{
    struct nested *nested = core->nested;
    const struct vmcb_control *control = &core->nested_vmcb->control;
    uint64_t error = 0;
    core->statistics.shadow_faults++;
    if (!nests_paging(nested)) { /* L1 let it have what L1 itself has not got: L2 ends, and L1 hears of it */
        core->statistics.refused++;
        nested_reflect(core, EXIT_SHUTDOWN, 0, 0);
        return true;
    }
    if (shadow_fault(&nested->shadow, nested->root, &core->partition->space, control->exit_info2, control->exit_info1,
                     &error) == FAULT_L1) {
        nested_reflect(core, EXIT_NPF, error, control->exit_info2);
    } else { /* the root may be new, and the pages may have been taken away */
        core->nested_vmcb->control.nested_cr3 = nested->shadow.roots[nested->root].root;
    }
    return true;
}

static bool wants_port(const struct core *core, uint64_t info)
{
    unsigned port = (unsigned)(info >> 16) & 0xffff, size = (info >> 4) & 7;
    for (unsigned i = 0; i < size; i++) {
        if (map_bit(core, core->nested->control.iopm, port + i)) {
            return true;
        }
    }
    return false;
}

static bool wants_msr(struct core *core, uint64_t info)
{
    int bit = msr_bit((uint32_t)*guest_register(core, RCX));
    return bit < 0 || map_bit(core, core->nested->control.msrpm, (unsigned)bit + (info & 1));
}

bool nested_exit(struct core *core, uint64_t code)
{
    uint64_t info = core->nested_vmcb->control.exit_info1;
    switch (code) {
    case EXIT_NMI: /* L0's own; L1's come by partition/core.c */
        take_nmi();
        return true;
    case EXIT_SMI:
    case EXIT_INIT:
    case EXIT_EXCEPTION + VECTOR_MC:
        return false;
    case EXIT_NPF:
        return fault(core);
    case EXIT_IOIO:
        return intercepts(&core->nested->control, code) && wants_port(core, info) ? reflect(core) : false;
    case EXIT_MSR:
        return intercepts(&core->nested->control, code) && wants_msr(core, info) ? reflect(core) : false;
    }
    if (nested_intercepts(core, code)) {
        return reflect(core);
    }
    if (code >= EXIT_VMRUN && code <= EXIT_SKINIT) { /* L1 leaves them to L2, and L2 to nobody */
        guest_raise(core, VECTOR_UD, false, 0);
        return true;
    }
    return false;
}
