/* Nested page tables: what a partition's physical addresses are (AMD64 Architecture Programmer's Manual [APM],
 * volume 2, 15.25). The same tables serve the IOMMU (AMD I/O Virtualization Technology specification, 2.2.3): the
 * bits that each of both wants are ignored by the other. So there is one truth of what a partition and its devices reach. */
#ifndef MH_NPT_H
#define MH_NPT_H

#include "memory/frames.h"

#define PTE_PRESENT (1ull << 0)
#define PTE_WRITE (1ull << 1)
#define PTE_USER (1ull << 2) /* nested walks are user accesses (APM 2, 15.25.5): without it nothing is reachable */
#define PTE_UNCACHED (1ull << 4)
#define PTE_ACCESSED (1ull << 5)
#define PTE_DIRTY (1ull << 6)
#define PTE_LARGE (1ull << 7)
#define PTE_NO_EXECUTE (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull
#define PTE_NEXT_LEVEL(level) ((uint64_t)(level) << 9) /* the IOMMU's; free for software in the CPU's */
#define PTE_DMA_READ (1ull << 61)
#define PTE_DMA_WRITE (1ull << 62)

#define NPT_LEVELS 4
#define NPT_LIMIT (1ull << 48)
#define SPACE_RANGES 12

enum rights { MAY_READ = 0, MAY_WRITE = 1, MAY_DMA = 2, IS_DEVICE = 4 };

/* One partition's address space. `own` are the only host ranges that npt_map ever maps for writing or DMA. */
struct space {
    uint64_t root;
    struct frames *frames;
    struct range own[SPACE_RANGES];
    unsigned own_count;
    uint64_t shown; /* one host page that may be mapped for reading only, though it is not its own: its core's LAPIC */
};

/*@ predicate owned(struct space *space, integer host, integer length) = \exists integer i; 0 <= i < space->own_count &&
        space->own[i].start <= host && host + length <= space->own[i].end;
    predicate may_map(struct space *space, integer host, integer length, integer rights) = owned(space, host, length) ||
        (rights == IS_DEVICE && host == space->shown && length == PAGE_SIZE);
    predicate sane(struct space *space) = space->own_count <= SPACE_RANGES &&
        (\forall integer i; 0 <= i < space->own_count ==> space->own[i].end <= 1 << 52) &&
        (space->shown == NOWHERE || space->shown < 1 << 52);
    predicate ready(struct space *space) = \valid(space) && \valid(space->frames) && sane(space) && bare(space->frames) &&
        space->root % PAGE_SIZE == 0 && space->root < 1 << 52 &&
        \separated(space, space->frames, physical + (0 .. PHYSICAL_WORDS - 1)); */

enum map_result { MAPPED, MAP_FORBIDDEN, MAP_TAKEN, MAP_NO_FRAME };

bool space_init(struct space *space, struct frames *frames);
bool space_owns(const struct space *space, uint64_t host, uint64_t length);

/* Map [guest, guest + length) to host. All three are multiples of 4 KiB; large pages are used where they fit. */
/*@ requires ready(space) && rights < 8;
    assigns space->frames->fresh, space->frames->free, physical[0 .. PHYSICAL_WORDS - 1];
    ensures ready(space);
    ensures own_only: !\old(may_map(space, host, length, rights)) ==> \result == MAP_FORBIDDEN &&
        \forall integer i; 0 <= i < PHYSICAL_WORDS ==> physical[i] == \old(physical[i]); */
enum map_result npt_map(struct space *space, uint64_t guest, uint64_t host, uint64_t length, unsigned rights);

/* The host address of a guest address, or NOWHERE; with write, only if it may be written. */
uint64_t npt_translate(const struct space *space, uint64_t guest, bool write);

/* The host address of [guest, guest + length), at most a page long, if all of it is the partition's own memory and in one
 * piece; else NOWHERE. */
uint64_t npt_span(const struct space *space, uint64_t guest, uint64_t length, bool write);

/* Whether a guest address is mapped by a large page. */
bool npt_is_large(const struct space *space, uint64_t guest);

/* Index into the table of a level, 1 to 4, for an address. */
/*@ requires 1 <= level <= NPT_LEVELS;
    assigns \nothing;
    ensures \result < 512; */
static inline unsigned npt_index(uint64_t address, unsigned level)
{
    return (unsigned)(address >> (12 + 9 * (level - 1))) & 511;
}

/*@ requires level == 1 || level == 2;
    assigns \nothing;
    ensures level == 1 ==> \result == PAGE_SIZE;
    ensures level == 2 ==> \result == LARGE_SIZE; */
static inline uint64_t npt_size(unsigned level)
{
    return PAGE_SIZE << (9 * (level - 1));
}

#endif
