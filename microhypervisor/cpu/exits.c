/* Why a guest's core came back to L0, and what is done about it. The only table of exits that there is. */
#include "cpu/exits.h"

#include "cpu/cpuid.h"
#include "cpu/guest.h"
#include "cpu/msr.h"
#include "devices/io.h"
#include "devices/mmio.h"
#include "lib/log.h"
#include "nested/gif.h"
#include "nested/nested.h"
#include "partition/core.h"

/* Lengths of instructions: QEMU's processor saves no next RIP, and older ones neither (APM 2, 15.7.1). */
enum { LENGTH_CPUID = 2, LENGTH_MSR = 2, LENGTH_INVD = 2, LENGTH_SVM = 3 };

static void exit_cpuid(struct core *core)
{
    uint64_t *a = guest_register(core, RAX), *c = guest_register(core, RCX);
    struct cpuid r = cpuid_filtered(core, (uint32_t)*a, (uint32_t)*c);
    *a = r.a;
    *guest_register(core, RBX) = r.b;
    *c = r.c;
    *guest_register(core, RDX) = r.d;
    guest_skip(core, LENGTH_CPUID);
}

static void exit_msr(struct core *core)
{
    uint32_t msr = (uint32_t)*guest_register(core, RCX);
    uint64_t *a = guest_register(core, RAX), *d = guest_register(core, RDX), value = 0;
    bool good;
    if (current_vmcb(core)->control.exit_info1 & 1) {
        good = msr_set(core, msr, (*d << 32) | (uint32_t)*a);
    } else if ((good = msr_get(core, msr, &value))) {
        *a = (uint32_t)value;
        *d = value >> 32;
    }
    if (good) {
        guest_skip(core, LENGTH_MSR);
    } else {
        core->statistics.refused++;
        guest_fault(core);
    }
}

static void exit_io(struct core *core)
{
    struct vmcb_control *control = &current_vmcb(core)->control;
    uint64_t info = control->exit_info1, next = control->exit_info2; /* APM 2, 15.10.2 */
    if (info & 0xc) { /* string instructions: nothing here takes them */
        core->statistics.refused++;
        guest_fault(core);
        return;
    }
    struct io io = {(uint16_t)(info >> 16), (info >> 4) & 7, (info & 1) == 0, 0};
    uint64_t *a = guest_register(core, RAX);
    io.value = (uint32_t)*a;
    io_access(core, &io);
    if (!io.write) {
        *a = io.size == 4 ? io.value : io.size == 2 ? (*a & ~0xffffull) | (uint16_t)io.value : (*a & ~0xffull) | (uint8_t)io.value;
    }
    if (atomic_get(&core->state) == CORE_RUNS) {
        guest_skip(core, next - current_vmcb(core)->save.rip);
    }
}

/* VMLOAD or VMSAVE, which the processor does by itself where the page is L1's own. */
static bool at_load_save(const struct core *core)
{
    uint8_t bytes[LENGTH_SVM];
    return guest_fetch(core, bytes, LENGTH_SVM) == LENGTH_SVM && bytes[0] == 0x0f && bytes[1] == 0x01 &&
           (bytes[2] == 0xda || bytes[2] == 0xdb);
}

static void exit_page_fault(struct core *core)
{
    uint64_t guest = core->vmcb->control.exit_info2;
    if (mmio_access(core, guest, core->vmcb->control.exit_info1)) {
        return;
    }
    core->statistics.refused++;
    if (at_load_save(core)) {
        guest_fault(core);
    } else {
        partition_park(core, "touched an address that is not its own", guest);
    }
}

/* Instructions of SVM: only for who has switched it on (APM 2, 15.4), and only at CPL 0, which the processor checks. */
static bool svm_allowed(struct core *core)
{
    if (msr_svm_enabled(core)) {
        return true;
    }
    guest_raise(core, VECTOR_UD, false, 0);
    return false;
}

static void exit_svm(struct core *core, uint64_t code)
{
    if (!svm_allowed(core)) {
        return;
    }
    switch (code) {
    case EXIT_VMRUN:
        nested_run(core, LENGTH_SVM);
        break;
    case EXIT_VMLOAD:
    case EXIT_VMSAVE:
        nested_load_save(core, code == EXIT_VMLOAD, LENGTH_SVM);
        break;
    case EXIT_STGI:
    case EXIT_CLGI:
        gif_set(core, code == EXIT_STGI);
        guest_skip(core, LENGTH_SVM);
        break;
    case EXIT_INVLPGA: /* of whatever ASID: more than was asked for is flushed */
        nested_flush(core);
        guest_skip(core, LENGTH_SVM);
        break;
    }
}

static void handle_l1_exit(struct core *core, uint64_t code)
{
    switch (code) {
    case EXIT_INTR:
        gif_interrupt(core);
        break;
    case EXIT_NMI: /* an order (the loop looks for it); the NMI itself is taken by L0 */
        take_nmi();
        break;
    case EXIT_CPUID:
        exit_cpuid(core);
        break;
    case EXIT_MSR:
        exit_msr(core);
        break;
    case EXIT_IOIO:
        exit_io(core);
        break;
    case EXIT_NPF:
        exit_page_fault(core);
        break;
    case EXIT_INVD: /* would drop what others have in the caches */
        __asm__ volatile("wbinvd");
        guest_skip(core, LENGTH_INVD);
        break;
    case EXIT_VMRUN:
    case EXIT_VMLOAD:
    case EXIT_VMSAVE:
    case EXIT_STGI:
    case EXIT_CLGI:
    case EXIT_INVLPGA:
        exit_svm(core, code);
        break;
    case EXIT_RDPMC:
        guest_fault(core);
        break;
    case EXIT_VMMCALL:
    case EXIT_SKINIT:
    case EXIT_RSM:
    case EXIT_MONITOR:
    case EXIT_MWAIT:
    case EXIT_MWAIT_ARMED: /* hidden by CPUID */
        guest_raise(core, VECTOR_UD, false, 0);
        break;
    case EXIT_SHUTDOWN:
        partition_reset(core, "triple fault");
        break;
    case EXIT_EXCEPTION + VECTOR_MC:
        partition_park(core, "machine check", 0);
        break;
    case EXIT_INVALID:
        partition_park(core, "the processor refused its state", current_vmcb(core)->save.rip);
        break;
    default:
        partition_park(core, "unexpected exit", code);
    }
}

void handle_exit(struct core *core)
{
    struct vmcb_control *control = &current_vmcb(core)->control;
    if (control->exit_code == (uint32_t)EXIT_INVALID) {
        control->exit_code = EXIT_INVALID; /* QEMU writes 32 bits of it (APM 2, appendix C: 64) */
    }
    uint64_t code = control->exit_code;
    core->statistics.exits++;
    control->tlb_control = TLB_KEEP;
    control->event_injection = 0;
    if (control->exit_int_info & EVENT_VALID) {
        control->event_injection = control->exit_int_info; /* its delivery was cut off: deliver it again (15.7.2) */
    }
    if (core->in_nested && nested_exit(core, code)) {
        return;
    }
    handle_l1_exit(core, code);
}
