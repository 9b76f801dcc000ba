#include "cpu/walk.h"

#include "memory/physical.h"

uint64_t walk_linear(const struct space *space, uint64_t cr3, uint64_t linear)
{
    uint64_t table = cr3 & PTE_ADDRESS;
    for (unsigned level = 4; level >= 1; level--) {
        uint64_t at = npt_span(space, table + 8 * npt_index(linear, level), 8, false);
        if (at == NOWHERE) {
            return NOWHERE;
        }
        uint64_t entry = *(volatile uint64_t *)at_physical(at);
        if (!(entry & PTE_PRESENT)) {
            return NOWHERE;
        }
        if (level == 1 || (level <= 3 && (entry & PTE_LARGE))) {
            uint64_t inside = npt_size(level) - 1;
            return (entry & PTE_ADDRESS & ~inside) | (linear & inside);
        }
        table = entry & PTE_ADDRESS;
    }
    return NOWHERE;
}
