#include "nested/walk.h"

#include "cpu/vmcb.h"
#include "memory/physical.h"

static bool reserved(uint64_t entry, unsigned level, unsigned address_bits)
{
    uint64_t beyond = PTE_ADDRESS & ~((1ull << address_bits) - 1);
    if (entry & beyond) {
        return true;
    }
    if (level == 4) {
        return entry & PTE_LARGE;
    }
    bool large = level > 1 && (entry & PTE_LARGE);
    return large && (entry & PTE_ADDRESS & (npt_size(level) - 1) & ~PAGE_SIZE); /* bit 12 is the PAT's there */
}

/* Read the entry and set what the walk leaves behind in it, at once: L1's other cores may be changing it. */
static bool touch(uint64_t *at, uint64_t entry, uint64_t bits)
{
    return (entry & bits) == bits ||
           __atomic_compare_exchange_n(at, &entry, entry | bits, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool fault(struct nested_walk *walk, uint64_t error)
{
    walk->error = error;
    return false;
}

bool nested_walk(struct nested_walk *walk, const struct space *l1, uint64_t nested_cr3, uint64_t address, bool write,
                 bool fetch, unsigned address_bits)
{
    uint64_t table = nested_cr3 & PTE_ADDRESS;
    bool writable = true, executable = true;
    for (unsigned level = 4; level >= 1;) {
        uint64_t host = npt_span(l1, table + 8 * npt_index(address, level), 8, true);
        if (host == NOWHERE) {
            return fault(walk, NPF_PRESENT | NPF_RESERVED); /* its table is where it has no memory */
        }
        uint64_t *at = at_physical(host), entry = __atomic_load_n(at, __ATOMIC_ACQUIRE);
        if (!(entry & PTE_PRESENT)) {
            return fault(walk, 0);
        }
        if (reserved(entry, level, address_bits)) {
            return fault(walk, NPF_PRESENT | NPF_RESERVED);
        }
        bool is_leaf = level == 1 || (entry & PTE_LARGE), allowed = entry & PTE_USER;
        bool w = writable && (entry & PTE_WRITE), x = executable && !(entry & PTE_NO_EXECUTE);
        if (!allowed || (is_leaf && ((write && !w) || (fetch && !x)))) {
            return fault(walk, NPF_PRESENT);
        }
        if (!touch(at, entry, PTE_ACCESSED | (is_leaf && write ? PTE_DIRTY : 0))) {
            continue; /* it has changed: look again */
        }
        if (is_leaf) {
            uint64_t inside = npt_size(level) - 1;
            walk->page = ((entry & PTE_ADDRESS & ~inside) | (address & inside)) & ~(PAGE_SIZE - 1);
            walk->level = level;
            walk->may_write = w && (write || (entry & PTE_DIRTY));
            walk->may_execute = x;
            return true;
        }
        writable = w;
        executable = x;
        table = entry & PTE_ADDRESS;
        level--;
    }
    return false;
}
