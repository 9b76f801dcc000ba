#include "memory/npt.h"

#include "memory/physical.h"

bool space_init(struct space *space, struct frames *frames)
{
    memset(space, 0, sizeof(*space));
    space->frames = frames;
    space->shown = NOWHERE;
    space->root = frame_take(frames);
    return space->root != NOWHERE;
}

/*@ requires \valid_read(space) && space->own_count <= SPACE_RANGES;
    assigns \nothing;
    ensures \result <==> owned(space, host, length); */
bool space_owns(const struct space *space, uint64_t host, uint64_t length)
{
    /*@ loop invariant 0 <= i <= space->own_count;
        loop invariant \forall integer j; 0 <= j < i ==> !(space->own[j].start <= host && host + length <= space->own[j].end);
        loop assigns i;
        loop variant space->own_count - i; */
    for (unsigned i = 0; i < space->own_count; i++) {
        if (range_holds(space->own[i], host, length)) {
            return true;
        }
    }
    return false;
}

/*@ requires \valid_read(space) && space->own_count <= SPACE_RANGES;
    assigns \nothing;
    ensures \result <==> may_map(space, host, length, rights); */
static bool allowed(const struct space *space, uint64_t host, uint64_t length, unsigned rights)
{
    if (space_owns(space, host, length)) {
        return true;
    }
    return rights == (MAY_READ | IS_DEVICE) && host == space->shown && length == PAGE_SIZE;
}

/*@ requires host % PAGE_SIZE == 0 && host < 1 << 52 && (level == 1 || level == 2) && rights < 8;
    assigns \nothing;
    ensures (\result & PTE_ADDRESS) == host;
    ensures ((\result & PTE_LARGE) != 0) <==> level == 2;
    ensures (rights & MAY_WRITE) == 0 ==> (\result & PTE_WRITE) == 0 && (\result & PTE_DMA_WRITE) == 0;
    ensures (rights & MAY_DMA) == 0 ==> (\result & PTE_DMA_READ) == 0 && (\result & PTE_DMA_WRITE) == 0; */
static uint64_t leaf(uint64_t host, unsigned level, unsigned rights)
{
    uint64_t entry = host | PTE_PRESENT | PTE_USER;
    entry |= level > 1 ? PTE_LARGE : 0;
    entry |= rights & MAY_WRITE ? PTE_WRITE : 0;
    entry |= rights & MAY_DMA ? PTE_DMA_READ : 0;
    entry |= (rights & MAY_DMA) && (rights & MAY_WRITE) ? PTE_DMA_WRITE : 0;
    entry |= rights & IS_DEVICE ? PTE_UNCACHED | PTE_NO_EXECUTE : 0;
    return entry;
}

/* The entry for guest in the table of `level`, making the tables above it. NULL: no frame, or a large page is there. */
/*@ requires ready(space) && guest < NPT_LIMIT && (level == 1 || level == 2);
    requires \valid(why) && \separated(why, space, space->frames, physical + (0 .. PHYSICAL_WORDS - 1));
    assigns *why, space->frames->fresh, space->frames->free, physical[0 .. PHYSICAL_WORDS - 1];
    ensures ready(space);
    ensures \result == \null || \exists integer i; 0 <= i < PHYSICAL_WORDS && \result == physical + i; */
static uint64_t *entry_at(struct space *space, uint64_t guest, unsigned level, enum map_result *why)
{
    uint64_t table = space->root;
    /*@ loop invariant level <= l <= NPT_LEVELS && table % PAGE_SIZE == 0 && table < 1 << 52;
        loop invariant ready(space);
        loop assigns l, table, *why, space->frames->fresh, space->frames->free, physical[0 .. PHYSICAL_WORDS - 1];
        loop variant l - level; */
    for (unsigned l = NPT_LEVELS; l > level; l--) {
        uint64_t *entry = (uint64_t *)at_physical(table) + npt_index(guest, l);
        if (*entry == 0) {
            uint64_t next = frame_take(space->frames);
            if (next == NOWHERE) {
                *why = MAP_NO_FRAME;
                return NULL;
            }
            /* Rights are the leaves' alone: nothing is taken away above them (APM 2, 5.6). */
            *entry = next | PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_NEXT_LEVEL(l - 1) | PTE_DMA_READ | PTE_DMA_WRITE;
        } else if (*entry & PTE_LARGE) {
            *why = MAP_TAKEN;
            return NULL;
        }
        table = *entry & PTE_ADDRESS;
    }
    return (uint64_t *)at_physical(table) + npt_index(guest, level);
}

enum map_result npt_map(struct space *space, uint64_t guest, uint64_t host, uint64_t length, unsigned rights)
{
    if (guest % PAGE_SIZE || host % PAGE_SIZE || length % PAGE_SIZE || guest >= NPT_LIMIT || length > NPT_LIMIT - guest ||
        !allowed(space, host, length, rights)) {
        return MAP_FORBIDDEN;
    }
    /*@ loop invariant guest % PAGE_SIZE == 0 && host % PAGE_SIZE == 0 && length % PAGE_SIZE == 0;
        loop invariant inside: length > 0 ==> may_map{Pre}(space, host, length, rights) && guest + length <= NPT_LIMIT;
        loop invariant inside_limit: host + length <= (1 << 52) + PAGE_SIZE && length <= NPT_LIMIT;
        loop invariant ready(space);
        loop assigns guest, host, length, space->frames->fresh, space->frames->free, physical[0 .. PHYSICAL_WORDS - 1];
        loop variant length; */
    while (length > 0) {
        unsigned level = ((guest | host) & (LARGE_SIZE - 1)) == 0 && length >= LARGE_SIZE ? 2 : 1;
        //@ ghost uint64_t size = level == 1 ? PAGE_SIZE : LARGE_SIZE;
        //@ assert own_page: may_map{Pre}(space, host, size, rights);
        //@ assert inside_size: size <= length;
        //@ assert inside_own: size == length || owned{Pre}(space, host, length);
        //@ assert inside_rest: size == length || owned{Pre}(space, host + size, length - size);
        enum map_result why = MAP_TAKEN;
        uint64_t *entry = entry_at(space, guest, level, &why);
        if (entry == NULL || *entry != 0) {
            return why;
        }
        *entry = leaf(host, level, rights);
        guest += npt_size(level);
        host += npt_size(level);
        length -= npt_size(level);
        //@ assert inside_next: length == 0 || owned{Pre}(space, host, length);
    }
    return MAPPED;
}

/* The entry that maps a guest address, and its level; 0 if there is none. */
static uint64_t find(const struct space *space, uint64_t guest, unsigned *level)
{
    uint64_t table = space->root;
    for (*level = guest < NPT_LIMIT ? NPT_LEVELS : 0; *level >= 1; --*level) {
        uint64_t entry = ((uint64_t *)at_physical(table))[npt_index(guest, *level)];
        if (!(entry & PTE_PRESENT)) {
            return 0;
        }
        if (*level == 1 || (entry & PTE_LARGE)) {
            return entry;
        }
        table = entry & PTE_ADDRESS;
    }
    return 0;
}

uint64_t npt_translate(const struct space *space, uint64_t guest, bool write)
{
    unsigned level;
    uint64_t entry = find(space, guest, &level);
    if (entry == 0 || (write && !(entry & PTE_WRITE))) {
        return NOWHERE;
    }
    uint64_t inside = npt_size(level) - 1;
    return (entry & PTE_ADDRESS & ~inside) | (guest & inside);
}

bool npt_is_large(const struct space *space, uint64_t guest)
{
    unsigned level;
    return (find(space, guest, &level) & PTE_LARGE) && level == 2;
}

uint64_t npt_span(const struct space *space, uint64_t guest, uint64_t length, bool write)
{
    uint64_t host = npt_translate(space, guest, write);
    if (host == NOWHERE || length == 0 || guest > NPT_LIMIT - length || !space_owns(space, host, length)) {
        return NOWHERE;
    }
    if ((guest & (PAGE_SIZE - 1)) + length <= PAGE_SIZE) {
        return host;
    }
    /* At most a page long, so that its first and last byte speak for every page it touches. */
    uint64_t last = npt_translate(space, guest + length - 1, write);
    return length <= PAGE_SIZE && last == host + length - 1 ? host : NOWHERE;
}
