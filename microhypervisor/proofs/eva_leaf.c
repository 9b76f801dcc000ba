/* memory/npt.c, leaf: which rights an entry carries, for any page, each level and all rights. WP has no theory of bits. That the
 * entry's address is the page is not said here: this analysis does not relate two values. */
#include "memory/npt.c"

#include "proofs/any.h"

static void check(unsigned level, unsigned rights)
{
    uint64_t host = any_of(0, (1ull << 40) - 1) * PAGE_SIZE, entry = leaf(host, level, rights);
    bool writes = rights & MAY_WRITE, dma = rights & MAY_DMA;
    uint64_t low = PTE_PRESENT | PTE_USER | (writes ? PTE_WRITE : 0) | (level == 2 ? PTE_LARGE : 0) |
                   (rights & IS_DEVICE ? PTE_UNCACHED : 0);
    uint64_t high = (dma ? PTE_DMA_READ : 0) | (dma && writes ? PTE_DMA_WRITE : 0) | (rights & IS_DEVICE ? PTE_NO_EXECUTE : 0);
    uint64_t entry_low = entry & (PAGE_SIZE - 1), entry_high = entry & ~(PTE_ADDRESS | (PAGE_SIZE - 1));
    //@ assert low_bits: entry_low == low;
    //@ assert high_bits: entry_high == high;
}

void eva_leaf(void)
{
    //@ loop unroll 2;
    for (unsigned level = 1; level <= 2; level++) {
        //@ loop unroll 8;
        for (unsigned rights = 0; rights < 8; rights++) {
            check(level, rights);
        }
    }
}
