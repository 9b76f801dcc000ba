#include "partition/partition.h"

#include "devices/apic.h"
#include "lib/format.h"
#include "lib/log.h"
#include "partition/control.h"
#include "partition/core.h"

struct partition partitions[MAX_PARTITIONS];
unsigned partition_count;

/* Leave RUNNING once, with the first reason; every core of it stops before its next VMRUN. Who is about to restart can still
 * be stopped. */
static void leave(struct partition *partition, enum partition_state to, const char *reason, uint64_t detail)
{
    lock_take(&partition->lock);
    bool first = partition->state == RUNNING || (partition->state == RESTARTING && to == STOPPED);
    if (first) {
        size_t length = format_to(partition->reason, sizeof(partition->reason), "%s", reason);
        if (detail != 0) {
            format_to(partition->reason + length, sizeof(partition->reason) - length, " (0x%x)", detail);
        }
        atomic_set(&partition->state, to);
    }
    lock_give(&partition->lock);
    if (!first) {
        return;
    }
    const char *what = to == PARKED ? "parked" : to == RESTARTING ? "restarts" : "stopped";
    log_line("partition %s: %s: %s", partition->name, what, partition->reason);
    for (unsigned i = 0; i < partition->core_count; i++) {
        core_order(partition->cores[i], ORDER_STOP);
    }
}

void partition_park(struct core *core, const char *reason, uint64_t detail)
{
    log_line("partition %s, core %u: %s, 0x%x at rip 0x%x%s", core->partition->name, (uint64_t)core->index, reason, detail,
             (core->in_nested ? core->nested_vmcb : core->vmcb)->save.rip, core->in_nested ? " in L2" : "");
    leave(core->partition, PARKED, reason, detail);
}

void partition_off(struct core *core, const char *reason)
{
    leave(core->partition, STOPPED, reason, 0);
}

void partition_reset(struct core *core, const char *reason)
{
    leave(core->partition, RESTARTING, reason, 0);
    monitor_wake();
}

void partition_leave(struct partition *partition, const char *reason)
{
    leave(partition, STOPPED, reason, 0);
}
