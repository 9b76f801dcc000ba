#include "nested/shadow.h"

#include "cpu/cpuid.h"
#include "cpu/vmcb.h"
#include "memory/physical.h"
#include "nested/walk.h"

void shadow_init(struct shadow *shadow, struct range pool)
{
    memset(shadow, 0, sizeof(*shadow));
    frames_init(&shadow->frames, pool);
    shadow->flushed = true;
}

static void give_back(struct shadow *shadow, uint64_t table, unsigned level)
{
    const uint64_t *entries = at_physical(table);
    for (unsigned i = 0; level > 1 && i < 512; i++) {
        if ((entries[i] & PTE_PRESENT) && !(entries[i] & PTE_LARGE)) {
            give_back(shadow, entries[i] & PTE_ADDRESS, level - 1);
        }
    }
    frame_return(&shadow->frames, table);
}

static void drop(struct shadow *shadow, struct shadow_root *root)
{
    if (root->used) {
        give_back(shadow, root->root, NPT_LEVELS);
        root->used = false;
        shadow->flushed = true;
        shadow->flushes++;
    }
}

void shadow_flush(struct shadow *shadow, uint32_t asid)
{
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (shadow->roots[i].asid == asid) {
            drop(shadow, &shadow->roots[i]);
        }
    }
}

void shadow_flush_all(struct shadow *shadow)
{
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        drop(shadow, &shadow->roots[i]);
    }
}

/* The pool holds far more than one frame for each root, so that one is left after a flush of everything. */
static uint64_t frame(struct shadow *shadow)
{
    return frame_take(&shadow->frames);
}

unsigned shadow_root(struct shadow *shadow, uint64_t nested_cr3, uint32_t asid)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        struct shadow_root *root = &shadow->roots[i];
        if (root->used && root->nested_cr3 == nested_cr3 && root->asid == asid) {
            root->last_use = ++shadow->uses;
            return i;
        }
        bool better = !root->used || (shadow->roots[oldest].used && root->last_use < shadow->roots[oldest].last_use);
        oldest = better ? i : oldest;
    }
    struct shadow_root *root = &shadow->roots[oldest];
    drop(shadow, root);
    if (shadow->frames.free == 0) {
        shadow_flush_all(shadow);
    }
    *root = (struct shadow_root){true, nested_cr3, asid, frame(shadow), ++shadow->uses};
    return oldest;
}

/* The entry for `address` in the table of `level`. NULL: the pool is empty. A page that is mapped larger is taken away. */
static uint64_t *entry_at(struct shadow *shadow, uint64_t table, uint64_t address, unsigned level)
{
    for (unsigned l = NPT_LEVELS; l > level; l--) {
        uint64_t *entry = (uint64_t *)at_physical(table) + npt_index(address, l);
        if (*entry == 0 || (*entry & PTE_LARGE)) {
            shadow->flushed = shadow->flushed || *entry != 0;
            uint64_t next = frame(shadow);
            if (next == NOWHERE) {
                return NULL;
            }
            *entry = next | PTE_PRESENT | PTE_WRITE | PTE_USER;
        }
        table = *entry & PTE_ADDRESS;
    }
    return (uint64_t *)at_physical(table) + npt_index(address, level);
}

/* A large page, if both L1's tables and its own memory have one there; else 4 KiB. */
static unsigned level_for(const struct nested_walk *walk, const struct space *l1, uint64_t address)
{
    uint64_t first = walk->page & ~(LARGE_SIZE - 1);
    bool same_offset = ((walk->page ^ address) & (LARGE_SIZE - 1) & ~(PAGE_SIZE - 1)) == 0;
    return walk->level >= 2 && same_offset && npt_is_large(l1, first) ? 2 : 1;
}

static bool map(struct shadow *shadow, unsigned root, uint64_t address, uint64_t host, unsigned level, uint64_t rights)
{
    uint64_t *entry = entry_at(shadow, shadow->roots[root].root, address, level);
    if (entry == NULL) {
        return false;
    }
    if (level == 2 && *entry != 0 && !(*entry & PTE_LARGE)) { /* smaller pages are there already: one more of them */
        uint64_t inside = address & (LARGE_SIZE - 1) & ~(PAGE_SIZE - 1);
        return map(shadow, root, address, host + inside, 1, rights);
    }
    if (*entry != 0 && ((*entry ^ host) & PTE_ADDRESS)) {
        shadow->flushed = true; /* L1 leads the address elsewhere now */
    }
    *entry = host | PTE_PRESENT | PTE_USER | rights | (level == 2 ? PTE_LARGE : 0);
    return true;
}

static enum fault_result refuse(const struct nested_walk *walk, bool write, uint64_t info, uint64_t *error)
{
    *error = walk->error | NPF_USER | (write ? NPF_WRITE : 0) | (info & (NPF_FETCH | NPF_FINAL | NPF_TABLE));
    return FAULT_L1;
}

enum fault_result shadow_fault(struct shadow *shadow, unsigned root, const struct space *l1, uint64_t address,
                               uint64_t info, uint64_t *error)
{
    /* A walk of L2's tables counts as a write (15.25.5), but QEMU marks others as walks, too: so for the first fault
     * reading has to be enough, and if the page is mapped already it was a write. */
    bool walks = info & NPF_TABLE, write = (info & NPF_WRITE) || (walks && (info & NPF_PRESENT));
    uint64_t cr3 = shadow->roots[root].nested_cr3;
    struct nested_walk walk = {0};
    shadow->faults++;
    bool good = !write && walks && nested_walk(&walk, l1, cr3, address, true, false, CPUID_ADDRESS_BITS);
    if (!good && !nested_walk(&walk, l1, cr3, address, write, info & NPF_FETCH, CPUID_ADDRESS_BITS)) {
        return refuse(&walk, write, info, error);
    }
    unsigned level = level_for(&walk, l1, address);
    uint64_t page = walk.page & ~(npt_size(level) - 1);
    uint64_t host = npt_translate(l1, page, false);
    if (host == NOWHERE || !space_owns(l1, host, npt_size(level))) {
        return refuse(&walk, write, info, error); /* L1 maps what it has not got: to it, the page stays absent */
    }
    bool writable = walk.may_write && npt_translate(l1, page, true) != NOWHERE;
    uint64_t rights = (writable ? PTE_WRITE : 0) | (walk.may_execute ? 0 : PTE_NO_EXECUTE);
    if (!map(shadow, root, address, host, level, rights)) {
        shadow_flush_all(shadow);
        shadow->roots[root].used = true; /* the same root, empty */
        shadow->roots[root].root = frame(shadow);
        map(shadow, root, address, host, level, rights);
    }
    return FAULT_MAPPED;
}
