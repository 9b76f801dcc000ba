#include "cpu/guest.h"

#include "cpu/walk.h"
#include "memory/physical.h"
#include "nested/nested.h"

void guest_raise(struct core *core, unsigned vector, bool has_error, uint32_t error)
{
    uint64_t event = EVENT_VALID | EVENT_EXCEPTION | vector;
    event |= has_error ? EVENT_HAS_ERROR | (uint64_t)error << 32 : 0;
    if (core->in_nested && nested_intercepts(core, EXIT_EXCEPTION + vector)) {
        nested_reflect(core, EXIT_EXCEPTION + vector, has_error ? error : 0, 0);
        return;
    }
    current_vmcb(core)->control.event_injection = event;
}

unsigned guest_fetch(const struct core *core, uint8_t *bytes, unsigned length)
{
    const struct vmcb_save *save = &core->vmcb->save;
    bool long_mode = (save->efer & EFER_LMA) && (save->cs.attributes & (1u << 9));
    uint64_t linear = long_mode ? save->rip : save->cs.base + save->rip;
    bool paged = save->cr0 & CR0_PG;
    if (paged && !(save->efer & EFER_LMA)) {
        return 0; /* 32-bit paging: no kernel that is served here touches a device from there */
    }
    for (unsigned done = 0; done < length;) { /* at most two pages */
        unsigned here = (unsigned)(PAGE_SIZE - ((linear + done) & (PAGE_SIZE - 1)));
        here = here < length - done ? here : length - done;
        uint64_t guest = paged ? walk_linear(&core->partition->space, save->cr3, linear + done) : linear + done;
        uint64_t host = guest == NOWHERE ? NOWHERE : npt_span(&core->partition->space, guest, here, false);
        if (host == NOWHERE) {
            return done;
        }
        memcpy(bytes + done, at_physical(host), here);
        done += here;
    }
    return length;
}
