#include "memory/check.h"

#include "memory/physical.h"

struct walk {
    const struct space *const *spaces;
    unsigned count, self;
    const struct range *l0;
    unsigned l0_count;
    struct finding found;
};

static bool bad(struct walk *walk, int what, uint64_t guest, uint64_t host)
{
    walk->found.what = what;
    walk->found.partition = walk->self;
    walk->found.guest = guest;
    walk->found.host = host;
    return false;
}

static bool in_l0(const struct walk *walk, struct range page)
{
    for (unsigned i = 0; i < walk->l0_count; i++) {
        if (range_overlaps(page, walk->l0[i])) {
            return true;
        }
    }
    return false;
}

static bool owned_by(const struct space *space, struct range page)
{
    for (unsigned i = 0; i < space->own_count; i++) {
        if (range_overlaps(page, space->own[i])) {
            return true;
        }
    }
    return false;
}

static bool leaf_apart(struct walk *walk, uint64_t entry, uint64_t guest, unsigned level)
{
    const struct space *self = walk->spaces[walk->self];
    uint64_t host = entry & PTE_ADDRESS & ~(npt_size(level) - 1);
    struct range page = {host, host + npt_size(level)};
    walk->found.pages += npt_size(level) / PAGE_SIZE;
    uint64_t beyond_reading = PTE_WRITE | PTE_DMA_READ | PTE_DMA_WRITE;
    if (level == 1 && host == self->shown && (entry & beyond_reading) == 0) {
        return true;
    }
    if (in_l0(walk, page)) {
        return bad(walk, HOLDS_L0, guest, host);
    }
    for (unsigned other = 0; other < walk->count; other++) {
        if (other != walk->self && owned_by(walk->spaces[other], page)) {
            walk->found.other = other;
            return bad(walk, SHARED, guest, host);
        }
    }
    return space_owns(self, host, npt_size(level)) ? true : bad(walk, NOT_ITS_OWN, guest, host);
}

/* A table must be a frame of its space's own pool: nobody else can write there. */
static bool is_table(const struct space *space, uint64_t table)
{
    return (table & (PAGE_SIZE - 1)) == 0 && range_holds(space->frames->all, table, PAGE_SIZE);
}

static bool walk_table(struct walk *walk, uint64_t table, uint64_t guest, unsigned level)
{
    if (!is_table(walk->spaces[walk->self], table)) {
        return bad(walk, BAD_TABLE, guest, table);
    }
    const uint64_t *entries = at_physical(table);
    for (unsigned i = 0; i < 512; i++, guest += npt_size(level)) {
        if (!(entries[i] & PTE_PRESENT)) {
            continue;
        }
        bool is_leaf = level == 1 || (entries[i] & PTE_LARGE);
        bool apart = is_leaf ? leaf_apart(walk, entries[i], guest, level)
                             : walk_table(walk, entries[i] & PTE_ADDRESS, guest, level - 1);
        if (!apart) {
            return false;
        }
    }
    return true;
}

/* No two pools overlap, and every pool is L0's: then no space can write its own tables or another's. */
static bool pools_apart(struct walk *walk)
{
    struct range pool = walk->spaces[walk->self]->frames->all;
    for (unsigned other = 0; other < walk->count; other++) {
        if (other != walk->self && range_overlaps(pool, walk->spaces[other]->frames->all)) {
            walk->found.other = other;
            return bad(walk, SHARED, 0, pool.start);
        }
    }
    return in_l0(walk, pool) ? true : bad(walk, BAD_TABLE, 0, pool.start);
}

struct finding check_apart(const struct space *const spaces[], unsigned count, const struct range *l0, unsigned l0_count)
{
    struct walk walk = {spaces, count, 0, l0, l0_count, {.what = APART}};
    for (walk.self = 0; walk.self < count; walk.self++) {
        if (!pools_apart(&walk) || !walk_table(&walk, spaces[walk.self]->root, 0, NPT_LEVELS)) {
            break;
        }
    }
    return walk.found;
}
