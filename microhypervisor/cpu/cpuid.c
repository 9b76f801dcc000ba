#include "cpu/cpuid.h"

#include "cpu/guest.h"

extern uint64_t tsc_khz;

#define BIT(n) (1u << (n))

#define MAX_BASIC 0xd
#define MAX_EXTENDED 0x8000001e
#define HYPERVISOR 0x40000000

static struct cpuid features(const struct core *core, struct cpuid r) /* leaf 1 */
{
    r.b = (r.b & 0xffff) | (core->partition->core_count << 16) | core->apic_id << 24;
    r.c &= ~(BIT(3) | BIT(5) | BIT(21) | BIT(24) | BIT(27)); /* MONITOR, VMX, x2APIC, TSC deadline, OSXSAVE */
    r.c |= BIT(31);                                          /* there is a hypervisor */
    if (current_vmcb(core)->save.cr4 & CR4_OSXSAVE) {
        r.c |= BIT(27);
    }
    r.d &= ~(BIT(7) | BIT(14) | BIT(21) | BIT(28)); /* MCE, MCA, debug store, HTT */
    r.d |= core->partition->core_count > 1 ? BIT(28) : 0;
    return r;
}

static struct cpuid more_features(const struct core *core, uint32_t sub, struct cpuid r) /* leaf 7 */
{
    if (sub != 0) {
        return (struct cpuid){0, 0, 0, 0};
    }
    r.a = 0;
    r.b &= ~(BIT(2) | BIT(12) | BIT(15) | BIT(25)); /* SGX, monitoring and allocation of caches, tracing */
    r.c &= ~(BIT(4) | BIT(5) | BIT(7) | BIT(16));   /* OSPKE, WAITPKG, shadow stacks, 5-level paging: our walks have 4 */
    if (current_vmcb(core)->save.cr4 & CR4_PKE) {
        r.c |= BIT(4);
    }
    r.d &= ~BIT(20); /* indirect branch tracking */
    return r;
}

static struct cpuid topology(const struct core *core, uint32_t sub) /* leaf 0xb: one thread a core, one package */
{
    struct cpuid r = {0, 0, sub, core->apic_id};
    if (sub == 0) {
        r = (struct cpuid){0, 1, 0x100 | sub, core->apic_id};
    } else if (sub == 1) {
        r = (struct cpuid){4, core->partition->core_count, 0x200 | sub, core->apic_id};
    }
    return r;
}

static struct cpuid hypervisor(uint32_t leaf)
{
    struct cpuid r = {0, 0, 0, 0};
    if (leaf == CPUID_CLOCK) {
        r.a = (uint32_t)tsc_khz;
    } else if (leaf == HYPERVISOR) {
        r.a = CPUID_CLOCK;
        memcpy(&r.b, "Supe", 4);
        memcpy(&r.c, "rclo", 4);
        memcpy(&r.d, "udMH", 4);
    }
    return r;
}

static struct cpuid svm(struct cpuid r) /* leaf 0x8000000a */
{
    r.a = 1;
    r.b = 64;                    /* ASIDs: L0 maps each to one of its own */
    r.c = 0;
    r.d = BIT(0) | BIT(6);       /* nested paging; flush by ASID, which L0 does itself */
    return r;
}

static struct cpuid extended(const struct core *core, uint32_t leaf, struct cpuid r)
{
    switch (leaf) {
    case 0x80000000:
        r.a = r.a < MAX_EXTENDED ? r.a : MAX_EXTENDED;
        return r;
    case 0x80000001: /* no SKINIT, IBS, OSVW, LWP, WDT, topology extensions, counters */
        r.c &= ~(BIT(9) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(22) | BIT(23) | BIT(24) | BIT(28));
        r.d &= ~BIT(14);
        return r;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
    case 0x80000005:
    case 0x80000006:
    case 0x80000007:
        return r;
    case 0x80000008:
        r.a = (r.a & ~0xffu) | CPUID_ADDRESS_BITS;
        r.c = core->partition->core_count - 1;
        return r;
    case 0x8000000a:
        return svm(r);
    }
    return (struct cpuid){0, 0, 0, 0};
}

struct cpuid cpuid_filtered(const struct core *core, uint32_t leaf, uint32_t sub)
{
    if (leaf >= HYPERVISOR && leaf < HYPERVISOR + 0x100) {
        return hypervisor(leaf);
    }
    struct cpuid r = cpuid_read(leaf, sub);
    if (leaf >= 0x80000000) {
        return extended(core, leaf, r);
    }
    switch (leaf) {
    case 0:
        r.a = r.a < MAX_BASIC ? r.a : MAX_BASIC;
        return r;
    case 1:
        return features(core, r);
    case 7:
        return more_features(core, sub, r);
    case 0xb:
        return topology(core, sub);
    case 2:
    case 4:
    case 0xd: /* sizes for XCR0, which is the guest's while it is stopped: L0 has none of its own there */
        return r;
    }
    return (struct cpuid){0, 0, 0, 0};
}
