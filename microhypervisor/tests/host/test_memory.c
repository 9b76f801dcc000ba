#include "check.h"
#include "memory/check.h"
#include "memory/physical.h"

#define POOL_A ARENA_START
#define POOL_B (ARENA_START + 0x100000)
#define POOL_SIZE 0x100000ull
#define MEMORY_A 0x40000000ull
#define MEMORY_B 0x50000000ull
#define MEMORY_SIZE 0x4000000ull
#define LAPIC 0xfee00000ull

static struct frames frames_a, frames_b;
static struct space a, b;

static void make(struct space *space, struct frames *frames, uint64_t pool, uint64_t memory)
{
    frames_init(frames, (struct range){pool, pool + POOL_SIZE});
    CHECK(space_init(space, frames));
    space->own[space->own_count++] = (struct range){memory, memory + MEMORY_SIZE};
    space->shown = LAPIC;
    CHECK(npt_map(space, 0, memory, MEMORY_SIZE, MAY_WRITE | MAY_DMA) == MAPPED);
    CHECK(npt_map(space, LAPIC, LAPIC, PAGE_SIZE, MAY_READ | IS_DEVICE) == MAPPED);
}

static void make_both(void)
{
    arena_clear();
    make(&a, &frames_a, POOL_A, MEMORY_A);
    make(&b, &frames_b, POOL_B, MEMORY_B);
}

void test_frames(void)
{
    arena_clear();
    struct frames frames;
    frames_init(&frames, (struct range){ARENA_START, ARENA_START + 3 * PAGE_SIZE});
    uint64_t first = frame_take(&frames), second = frame_take(&frames), third = frame_take(&frames);
    CHECK(first != second && second != third && first != third && frames.free == 0);
    CHECK(frame_take(&frames) == NOWHERE);
    memset(at_physical(second), 0xff, PAGE_SIZE);
    frame_return(&frames, second);
    CHECK(frames.free == 1 && frame_take(&frames) == second);
    for (unsigned i = 0; i < PAGE_SIZE; i++) {
        CHECK(((uint8_t *)at_physical(second))[i] == 0);
    }
}

static void test_what_is_mapped(void)
{
    make_both();
    CHECK(npt_translate(&a, 0x1234, true) == MEMORY_A + 0x1234);
    CHECK(npt_translate(&a, MEMORY_SIZE - 1, false) == MEMORY_A + MEMORY_SIZE - 1);
    CHECK(npt_translate(&a, MEMORY_SIZE, false) == NOWHERE);
    CHECK(npt_translate(&a, LAPIC, false) == LAPIC && npt_translate(&a, LAPIC, true) == NOWHERE);
    CHECK(npt_translate(&a, NPT_LIMIT, false) == NOWHERE);
    CHECK(npt_is_large(&a, 0) && !npt_is_large(&a, LAPIC));
    CHECK(npt_span(&a, 0x1000, PAGE_SIZE, true) == MEMORY_A + 0x1000);
    CHECK(npt_span(&a, LAPIC, 4, false) == NOWHERE); /* shown, not its own */
    CHECK(npt_span(&a, MEMORY_SIZE - 4, 8, false) == NOWHERE);
    CHECK(npt_span(&a, 0, PAGE_SIZE + 1, false) == NOWHERE && npt_span(&a, 0, 0, false) == NOWHERE);
    CHECK(npt_span(&a, UINT64_MAX - 2, 8, false) == NOWHERE);
}

static void test_what_is_never_mapped(void)
{
    make_both();
    CHECK(npt_map(&a, 0x80000000, MEMORY_B, PAGE_SIZE, MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000000, POOL_A, PAGE_SIZE, MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000000, LAPIC, PAGE_SIZE, MAY_WRITE | IS_DEVICE) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000000, LAPIC, PAGE_SIZE, MAY_DMA | IS_DEVICE) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000000, MEMORY_A + MEMORY_SIZE - PAGE_SIZE, 2 * PAGE_SIZE, MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000000, MEMORY_A, UINT64_MAX & ~(PAGE_SIZE - 1), MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x80000001, MEMORY_A, PAGE_SIZE, MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, NPT_LIMIT, MEMORY_A, PAGE_SIZE, MAY_READ) == MAP_FORBIDDEN);
    CHECK(npt_map(&a, 0x1000, MEMORY_A, PAGE_SIZE, MAY_READ) == MAP_TAKEN);
    CHECK(npt_map(&a, LAPIC, LAPIC, PAGE_SIZE, MAY_READ | IS_DEVICE) == MAP_TAKEN);
}

static void test_a_pool_that_runs_out(void)
{
    arena_clear();
    struct frames few;
    struct space space;
    frames_init(&few, (struct range){POOL_A, POOL_A + 3 * PAGE_SIZE});
    CHECK(space_init(&space, &few));
    space.own[space.own_count++] = (struct range){MEMORY_A, MEMORY_A + MEMORY_SIZE};
    CHECK(npt_map(&space, 0, MEMORY_A, LARGE_SIZE, MAY_WRITE) == MAPPED);
    CHECK(npt_map(&space, 0x1000000, MEMORY_A, PAGE_SIZE, MAY_WRITE) == MAP_NO_FRAME);
}

/* Against a model: pages at random, and after each one every page looked up. */
static void test_random_mappings(void)
{
    enum { PAGES = 64 };
    uint64_t model[PAGES], state = 12345;
    arena_clear();
    frames_init(&frames_a, (struct range){POOL_A, POOL_A + POOL_SIZE});
    CHECK(space_init(&a, &frames_a));
    a.own[a.own_count++] = (struct range){MEMORY_A, MEMORY_A + MEMORY_SIZE};
    for (unsigned i = 0; i < PAGES; i++) {
        model[i] = NOWHERE;
    }
    for (unsigned round = 0; round < 400; round++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        unsigned page = (state >> 33) % PAGES;
        uint64_t host = MEMORY_A - LARGE_SIZE + ((state >> 40) % 0x5000) * PAGE_SIZE, guest = page * 0x40201000ull;
        bool owned = host >= MEMORY_A && host < MEMORY_A + MEMORY_SIZE;
        enum map_result wanted = !owned ? MAP_FORBIDDEN : model[page] != NOWHERE ? MAP_TAKEN : MAPPED;
        CHECK(npt_map(&a, guest, host, PAGE_SIZE, MAY_WRITE) == wanted);
        model[page] = wanted == MAPPED ? host : model[page];
        for (unsigned i = 0; i < PAGES; i++) {
            CHECK(npt_translate(&a, i * 0x40201000ull, true) == model[i]);
        }
    }
}

void test_npt(void)
{
    test_what_is_mapped();
    test_what_is_never_mapped();
    test_a_pool_that_runs_out();
    test_random_mappings();
}

static struct finding look(void)
{
    const struct space *spaces[] = {&a, &b};
    const struct range l0[] = {{0, 0x100000}, {POOL_A, POOL_A + POOL_SIZE}, {POOL_B, POOL_B + POOL_SIZE},
                               {LAPIC, LAPIC + PAGE_SIZE}};
    return check_apart(spaces, 2, l0, COUNT(l0));
}

static uint64_t *large_entry(const struct space *space, uint64_t guest)
{
    uint64_t *root = at_physical(space->root), *third = at_physical(root[npt_index(guest, 4)] & PTE_ADDRESS);
    return (uint64_t *)at_physical(third[npt_index(guest, 3)] & PTE_ADDRESS) + npt_index(guest, 2);
}

static void expect(unsigned what, unsigned partition)
{
    struct finding found = look();
    CHECK(found.what == what && found.partition == partition);
}

void test_check(void)
{
    make_both();
    struct finding found = look();
    CHECK(found.what == APART && found.pages == 2 * (MEMORY_SIZE / PAGE_SIZE + 1));

    uint64_t *entry = large_entry(&b, LARGE_SIZE), good = *entry;
    *entry = MEMORY_A | (good & ~PTE_ADDRESS); /* another's page */
    expect(SHARED, 1);
    *entry = 0 | (good & ~PTE_ADDRESS); /* L0's page */
    expect(HOLDS_L0, 1);
    *entry = 0x70000000 | (good & ~PTE_ADDRESS); /* nobody's page */
    expect(NOT_ITS_OWN, 1);
    *entry = MEMORY_A | PTE_PRESENT | PTE_USER; /* a table within somebody's memory */
    expect(BAD_TABLE, 1);
    *entry = good;
    expect(APART, 0);

    uint64_t *root = at_physical(a.root), *third = at_physical(root[0] & PTE_ADDRESS);
    uint64_t *second = at_physical(third[3] & PTE_ADDRESS), *first = at_physical(second[npt_index(LAPIC, 2)] & PTE_ADDRESS);
    CHECK((first[npt_index(LAPIC, 1)] & PTE_ADDRESS) == LAPIC);
    first[npt_index(LAPIC, 1)] |= PTE_WRITE; /* the shown page, written */
    expect(HOLDS_L0, 0);
    first[npt_index(LAPIC, 1)] &= ~PTE_WRITE;
    b.own[b.own_count++] = a.own[0]; /* two owners */
    expect(SHARED, 0);
    b.own_count--;
    frames_b.all = frames_a.all; /* two users of a pool */
    expect(SHARED, 0);
}
