#include "partition/core.h"

#include "cpu/exits.h"
#include "cpu/msr.h"
#include "cpu/scrub.h"
#include "devices/apic.h"
#include "nested/gif.h"
#include "nested/nested.h"
#include "partition/entry.h"

struct core cores[MAX_CPUS];
unsigned core_count;

static struct vmcb vmcbs[MAX_CPUS][2] __attribute__((aligned(4096)));
static uint8_t host_save[MAX_CPUS][PAGE_SIZE] __attribute__((aligned(4096)));

void core_prepare(struct core *core)
{
    unsigned number = (unsigned)(core - cores);
    core->vmcb = &vmcbs[number][0];
    core->nested_vmcb = &vmcbs[number][1];
    core->nested = nested_of(number);
    msr_write(MSR_VM_HSAVE_PA, (uint64_t)host_save[number]);
    apic_init();
}

void core_order(struct core *core, enum order order)
{
    __atomic_fetch_or(&core->orders, order, __ATOMIC_RELEASE);
    if (core->apic_id != apic_read(APIC_ID) >> 24) {
        apic_send(core->apic_id, APIC_NMI | APIC_ASSERT);
    } /* to itself: the loop looks before the next VMRUN */
}

/* Leave nothing of the partition in what VMRUN does not switch. */
static void become_idle(struct core *core)
{
    for (unsigned i = 0; i < 256; i++) { /* one for each vector that may be in service */
        apic_write(APIC_EOI, 0);
    }
    apic_init();
    cr8_write(0);
    memset(core->registers, 0, sizeof(core->registers));
    scrub_registers();
    atomic_set(&core->state, CORE_IDLE);
}

static void take_orders(struct core *core)
{
    uint32_t orders = __atomic_exchange_n(&core->orders, 0, __ATOMIC_ACQUIRE);
    if (orders & ORDER_STOP) {
        become_idle(core);
        return;
    }
    if (orders & ORDER_BEGIN) {
        core_enter_kernel(core);
        atomic_set(&core->state, core->index == 0 ? CORE_RUNS : CORE_WAITS_FOR_SIPI);
    }
    if (core->state == CORE_IDLE) {
        return;
    }
    if (orders & ORDER_INIT) {
        atomic_set(&core->state, CORE_WAITS_FOR_SIPI);
    }
    if ((orders & ORDER_SIPI) && core->state == CORE_WAITS_FOR_SIPI) {
        core_enter_real_mode(core, core->sipi_vector);
        atomic_set(&core->state, CORE_RUNS);
    }
    core->nmi_pending = core->nmi_pending || (orders & ORDER_NMI);
}

/* An NMI that another core of the partition sent: to L1, or to L2 where L1 does not want it itself. */
static void deliver_nmi(struct core *core)
{
    struct vmcb *vmcb = core->in_nested ? core->nested_vmcb : core->vmcb;
    if (!core->nmi_pending || (vmcb->control.event_injection & EVENT_VALID)) {
        return;
    }
    if (!gif_get(core)) {
        gif_shut(core);
        return;
    }
    core->nmi_pending = false;
    if (core->in_nested && nested_intercepts(core, EXIT_NMI)) {
        nested_reflect(core, EXIT_NMI, 0, 0);
        core->nmi_pending = true; /* still there, and comes as soon as L1 sets GIF */
        return;
    }
    vmcb->control.event_injection = EVENT_VALID | EVENT_NMI | 2;
}

static void run(struct core *core)
{
    deliver_nmi(core);
    struct vmcb *vmcb = core->in_nested ? core->nested_vmcb : core->vmcb;
    if (core->flush_tlb || nested_needs_flush(core)) {
        vmcb->control.tlb_control = TLB_FLUSH_ALL;
        core->flush_tlb = false;
    }
    vmcb->control.clean = 0;
    run_guest((uint64_t)vmcb, core->registers, core->in_nested ? nested_host_if(core) : core->gate == GATE_WATCHED);
    handle_exit(core);
}

_Noreturn void core_loop(struct core *core)
{
    __asm__ volatile("clgi");
    become_idle(core);
    for (;;) {
        if (atomic_get(&core->orders) != 0) {
            take_orders(core);
        }
        if (core->state == CORE_RUNS) {
            run(core);
        } else if (atomic_get(&core->orders) == 0) {
            wait_for_order();
        }
    }
}
