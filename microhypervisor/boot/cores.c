/* Starts the cores that will run partitions (APM 2, 16.7: INIT, then a SIPI). */
#include "boot/cores.h"

#include "boot/tables.h"
#include "devices/apic.h"
#include "lib/log.h"
#include "memory/physical.h"
#include "partition/control.h"
#include "partition/core.h"

#define TRAMPOLINE 0x8000ull
#define STACK_SIZE 8192
#define ANSWER_MS 5000

extern const uint8_t trampoline[], trampoline_end[];
extern uint64_t trampoline_stack;

static uint8_t stacks[MAX_CPUS][STACK_SIZE] __attribute__((aligned(16)));
static uint32_t arrived;

_Noreturn void core_begin(void);

_Noreturn void core_begin(void) /* on the new core, from boot/start.S */
{
    struct core *core = &cores[atomic_get(&arrived)];
    core_prepare(core);
    atomic_set(&arrived, (uint32_t)(core - cores) + 1);
    while (core->partition == NULL) { /* given out before anything starts: partition->cores is complete by then */
        cpu_relax();
        __asm__ volatile("" : : : "memory");
    }
    core_loop(core);
}

static void wait_ms(uint64_t ms)
{
    for (uint64_t until = tsc_read() + ms * tsc_khz; tsc_read() < until;) {
        cpu_relax();
    }
}

static bool start(uint32_t apic_id, unsigned number)
{
    cores[number].apic_id = apic_id;
    trampoline_stack = (uint64_t)stacks[number] + STACK_SIZE;
    apic_send(apic_id, APIC_INIT | APIC_ASSERT);
    wait_ms(10);
    apic_send(apic_id, APIC_SIPI | APIC_ASSERT | (uint32_t)(TRAMPOLINE >> 12));
    for (uint64_t until = tsc_read() + ANSWER_MS * tsc_khz; tsc_read() < until; cpu_relax()) {
        if (atomic_get(&arrived) == number + 1) {
            return true;
        }
    }
    return false;
}

unsigned cores_start(unsigned wanted)
{
    uint32_t self = apic_read(APIC_ID) >> 24;
    uint8_t ids[MAX_CPUS + 1];
    unsigned there = table_apic_ids(ids, COUNT(ids));
    memcpy(at_physical(TRAMPOLINE), trampoline, (size_t)(trampoline_end - trampoline));
    for (unsigned i = 0; i < there && core_count < wanted && core_count < MAX_CPUS; i++) {
        if (ids[i] == self) {
            continue;
        }
        if (!start(ids[i], core_count)) {
            break;
        }
        core_count++;
    }
    return core_count;
}
