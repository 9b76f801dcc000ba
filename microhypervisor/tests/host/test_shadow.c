#include "check.h"
#include "cpu/vmcb.h"
#include "memory/physical.h"
#include "nested/shadow.h"

#define POOL ARENA_START
#define POOL_SIZE 0x100000ull
#define SHADOW_POOL (ARENA_START + 0x100000)
#define SHADOW_SIZE 0x20000ull
#define MEMORY (ARENA_START + 0x1000000)
#define MEMORY_SIZE 0x1000000ull
#define ASID 5
#define CR3 0x1000ull /* L1's nested tables, in L1's addresses; the four tables follow one another */
#define READS NPF_FINAL
#define WRITES (NPF_FINAL | NPF_WRITE)

static struct frames frames;
static struct space l1;
static struct shadow shadow;
static unsigned root;
static uint64_t error;

static uint64_t *l1_table(unsigned number)
{
    return at_physical(MEMORY + CR3 + number * PAGE_SIZE);
}

/* L1 maps L2's page 0x5000 to its own 0x9000, and L2's second 2 MiB to its own fifth. */
static void make(uint64_t leaf_bits)
{
    const uint64_t table_bits = PTE_PRESENT | PTE_WRITE | PTE_USER;
    arena_clear();
    frames_init(&frames, (struct range){POOL, POOL + POOL_SIZE});
    CHECK(space_init(&l1, &frames));
    l1.own[l1.own_count++] = (struct range){MEMORY, MEMORY + MEMORY_SIZE};
    CHECK(npt_map(&l1, 0, MEMORY, MEMORY_SIZE, MAY_WRITE) == MAPPED);
    l1_table(0)[0] = (CR3 + 0x1000) | table_bits;
    l1_table(1)[0] = (CR3 + 0x2000) | table_bits;
    l1_table(2)[0] = (CR3 + 0x3000) | table_bits;
    l1_table(2)[1] = (4 * LARGE_SIZE) | table_bits | PTE_LARGE;
    l1_table(3)[5] = 0x9000 | leaf_bits;
    shadow_init(&shadow, (struct range){SHADOW_POOL, SHADOW_POOL + SHADOW_SIZE});
    root = shadow_root(&shadow, CR3, ASID);
}

/* What the shadow tables say of an address of L2: a space like any other, seen by the same walk. */
static uint64_t seen(uint64_t address, bool write)
{
    struct space as_space = {.root = shadow.roots[root].root};
    return npt_translate(&as_space, address, write);
}

static enum fault_result touch(uint64_t address, uint64_t info)
{
    error = 0;
    return shadow_fault(&shadow, root, &l1, address, info, &error);
}

static void test_read_then_write(void)
{
    make(PTE_PRESENT | PTE_WRITE | PTE_USER);
    CHECK(touch(0x5123, READS) == FAULT_MAPPED);
    CHECK(seen(0x5123, false) == MEMORY + 0x9123);
    CHECK(seen(0x5123, true) == NOWHERE); /* not until L1 knows that the page is dirty */
    CHECK((l1_table(3)[5] & (PTE_ACCESSED | PTE_DIRTY)) == PTE_ACCESSED);
    CHECK(l1_table(0)[0] & l1_table(1)[0] & l1_table(2)[0] & PTE_ACCESSED);
    CHECK(touch(0x5123, WRITES | NPF_PRESENT) == FAULT_MAPPED);
    CHECK(seen(0x5123, true) == MEMORY + 0x9123 && (l1_table(3)[5] & PTE_DIRTY));
}

static void test_what_l1_refuses(void)
{
    make(PTE_PRESENT | PTE_USER);
    CHECK(touch(0x6000, READS) == FAULT_L1 && error == (NPF_USER | NPF_FINAL));
    CHECK(touch(0x5000, WRITES) == FAULT_L1 && error == (NPF_PRESENT | NPF_WRITE | NPF_USER | NPF_FINAL));
    CHECK(touch(0x5000, READS) == FAULT_MAPPED && seen(0x5000, true) == NOWHERE);
    make(PTE_PRESENT | PTE_WRITE);
    CHECK(touch(0x5000, READS) == FAULT_L1); /* a nested walk is a user access */
    make(PTE_PRESENT | PTE_USER | PTE_NO_EXECUTE);
    CHECK(touch(0x5000, READS | NPF_FETCH) == FAULT_L1 && (error & NPF_FETCH) && (error & NPF_PRESENT));
    CHECK(touch(0x5000, READS) == FAULT_MAPPED);
    make(PTE_PRESENT | PTE_USER | 1ull << 51); /* how KVM marks devices */
    CHECK(touch(0x5000, READS) == FAULT_L1 && (error & NPF_RESERVED) && (error & NPF_PRESENT));
}

static void test_walks_count_as_writes(void)
{
    make(PTE_PRESENT | PTE_WRITE | PTE_USER);
    CHECK(touch(0x5000, NPF_TABLE) == FAULT_MAPPED && seen(0x5000, true) != NOWHERE);
    make(PTE_PRESENT | PTE_USER); /* reading has to be enough at first; then it was a write */
    CHECK(touch(0x5000, NPF_TABLE) == FAULT_MAPPED && seen(0x5000, true) == NOWHERE);
    CHECK(touch(0x5000, NPF_TABLE | NPF_PRESENT) == FAULT_L1 && (error & NPF_WRITE));
}

static void test_what_l1_has_not_got(void)
{
    make(PTE_PRESENT | PTE_WRITE | PTE_USER);
    l1_table(3)[5] = MEMORY_SIZE | PTE_PRESENT | PTE_WRITE | PTE_USER;
    CHECK(touch(0x5000, READS) == FAULT_L1 && seen(0x5000, false) == NOWHERE);
    l1_table(3)[5] = 0xfee00000 | PTE_PRESENT | PTE_WRITE | PTE_USER;
    CHECK(touch(0x5000, WRITES) == FAULT_L1 && seen(0x5000, false) == NOWHERE);
    l1_table(2)[0] = MEMORY_SIZE | PTE_PRESENT | PTE_WRITE | PTE_USER; /* a table there */
    CHECK(touch(0x5000, READS) == FAULT_L1 && (error & NPF_RESERVED));
}

static void test_large_pages(void)
{
    make(0);
    CHECK(touch(LARGE_SIZE + 0x3456, WRITES) == FAULT_MAPPED);
    CHECK(seen(LARGE_SIZE + 0x3456, true) == MEMORY + 4 * LARGE_SIZE + 0x3456);
    CHECK(seen(2 * LARGE_SIZE - 1, true) == MEMORY + 5 * LARGE_SIZE - 1); /* all of it, at once */
    CHECK(shadow.faults == 1);
}

static void test_flushes_and_roots(void)
{
    make(PTE_PRESENT | PTE_WRITE | PTE_USER);
    uint64_t all = shadow.frames.free;
    CHECK(touch(0x5000, WRITES) == FAULT_MAPPED);
    CHECK(shadow_root(&shadow, CR3, ASID) == root);
    unsigned other = shadow_root(&shadow, CR3, ASID + 1);
    CHECK(other != root && seen(0x5000, true) != NOWHERE);
    shadow.flushed = false;
    shadow_flush(&shadow, ASID + 1);
    CHECK(shadow.flushed && seen(0x5000, true) != NOWHERE);
    shadow_flush(&shadow, ASID);
    CHECK(shadow.frames.free == all + 1 && !shadow.roots[root].used);
    for (uint32_t asid = 1; asid <= 3 * SHADOW_ROOTS; asid++) {
        shadow_root(&shadow, CR3, asid);
    }
    CHECK(shadow.frames.free == all + 1 - SHADOW_ROOTS);
}

/* More pages than the pool has frames for: everything is dropped and goes on, and nothing else is touched. */
static void test_exhaustion(void)
{
    make(PTE_PRESENT | PTE_WRITE | PTE_USER);
    l1_table(0)[1] = l1_table(0)[0];
    for (uint64_t i = 0; i < 512; i++) {
        l1_table(1)[i] = (CR3 + 0x2000) | PTE_PRESENT | PTE_WRITE | PTE_USER;
    }
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t address = (i % 512) << 30 | 0x5000;
        CHECK(touch(address, WRITES) == FAULT_MAPPED);
        CHECK(seen(address, true) == MEMORY + 0x9000);
    }
    CHECK(shadow.flushes > 10);
}

void test_shadow(void)
{
    test_read_then_write();
    test_what_l1_refuses();
    test_walks_count_as_writes();
    test_what_l1_has_not_got();
    test_large_pages();
    test_flushes_and_roots();
    test_exhaustion();
}
