#include "devices/vapic.h"

#include "devices/apic.h"
#include "partition/core.h"

#define DELIVERY 0x700
#define LOGICAL 0x800
#define LOWEST_VECTOR 16

uint32_t ipi_targets(const struct core *core, uint32_t command)
{
    uint32_t all = (1u << core->partition->core_count) - 1, self = 1u << core->index;
    switch ((command >> 18) & 3) { /* shorthands: all cores there are, to a partition, are its own */
    case 1:
        return self;
    case 2:
        return all;
    case 3:
        return all & ~self;
    }
    uint32_t targets = 0, to = core->apic_destination >> 24;
    for (unsigned i = 0; i < core->partition->core_count; i++) {
        const struct core *other = core->partition->cores[i];
        bool meant = command & LOGICAL ? (other->apic_logical >> 24) & to : to == 0xff || to == other->apic_id;
        targets |= meant ? 1u << i : 0;
    }
    return targets;
}

uint32_t local_vector(uint32_t value)
{
    bool fixed = (value & DELIVERY) == APIC_FIXED && (value & 0xff) >= LOWEST_VECTOR;
    return fixed ? value & 0x700ff : APIC_MASKED;
}

static bool send(struct core *core, uint32_t command)
{
    uint32_t delivery = command & DELIVERY, targets = ipi_targets(core, command);
    if (delivery == APIC_FIXED && (command & 0xff) < LOWEST_VECTOR) {
        return true; /* an illegal vector: nobody gets it, on real hardware neither */
    }
    for (unsigned i = 0; i < core->partition->core_count; i++) {
        struct core *other = core->partition->cores[i];
        if (!(targets & (1u << i))) {
            continue;
        }
        switch (delivery) {
        case APIC_FIXED:
            apic_send(other->apic_id, APIC_ASSERT | (command & 0xff));
            break;
        case APIC_NMI:
            core_order(other, ORDER_NMI);
            break;
        case APIC_INIT:
            if (command & APIC_ASSERT) {
                core_order(other, ORDER_INIT);
            }
            break;
        case APIC_SIPI:
            other->sipi_vector = command & 0xff;
            core_order(other, ORDER_SIPI);
            break;
        default: /* SMI would enter the firmware; lowest priority and the reserved ones are used by nobody */
            return false;
        }
    }
    return true;
}

bool vapic_write(struct core *core, uint64_t at, uint32_t value)
{
    switch (at) {
    case APIC_EOI:
        apic_write(APIC_EOI, 0);
        return true;
    case APIC_TPR:
        apic_write(APIC_TPR, value & 0xff);
        if (core->gate != GATE_OPEN) {
            core->vmcb->control.vintr = (core->vmcb->control.vintr & ~V_TPR) | (value >> 4 & 0xf);
        }
        return true;
    case APIC_LDR: /* the device's stays 0, so that no other partition's logical ids mean this core */
        core->apic_logical = value;
        return true;
    case APIC_SVR:
        apic_write(APIC_SVR, (value & 0x1ff) | 0xf);
        return true;
    case APIC_ESR:
        apic_write(APIC_ESR, 0);
        return true;
    case APIC_ICR_HIGH:
        core->apic_destination = value;
        return true;
    case APIC_ICR_LOW:
        return send(core, value);
    case APIC_LVT_TIMER:
    case APIC_LVT_THERMAL:
    case APIC_LVT_PERFORMANCE:
    case APIC_LVT_LINT0:
    case APIC_LVT_LINT1:
    case APIC_LVT_ERROR:
        apic_write((uint32_t)at, local_vector(value));
        return true;
    case APIC_TIMER_COUNT:
    case APIC_TIMER_DIVIDE:
        apic_write((uint32_t)at, value);
        return true;
    }
    return true; /* DFR, the id and what only can be read */
}
