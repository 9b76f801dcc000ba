/* Runs every test of the host: ./tests CHANNEL_VECTORS CONSENT_VECTORS EXPORT_VECTORS */
#include "check.h"

#include <string.h>

#include "lib/log.h"
#include "memory/physical.h"

static uint8_t arena[ARENA_SIZE] __attribute__((aligned(0x200000)));

void *at_physical(uint64_t address)
{
    if (address < ARENA_START || address >= ARENA_START + ARENA_SIZE) {
        fprintf(stderr, "physical address 0x%llx was touched\n", (unsigned long long)address);
        abort();
    }
    return arena + (address - ARENA_START);
}

void arena_clear(void)
{
    memset(arena, 0, sizeof(arena));
}

void log_line(const char *pattern, ...)
{
    (void)pattern;
}

int main(int count, char **arguments)
{
    CHECK(count == 4);
    test_format();
    test_frames();
    test_npt();
    test_check();
    test_layout();
    test_decode();
    test_linux();
    test_vapic();
    test_msr();
    test_gif();
    test_shadow();
    test_frame(arguments[1]);
    test_requests();
    test_iommu();
    test_consent(arguments[2]);
    test_monitor(arguments[2], arguments[3]);
    test_quote();
    puts("host tests: all good");
    return 0;
}
