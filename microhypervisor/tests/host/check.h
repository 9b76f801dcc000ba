/* What the host's tests share: physical memory as an arena, and one macro. */
#ifndef MH_TEST_CHECK_H
#define MH_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "lib/base.h"

#define ARENA_START 0x10000000ull
#define ARENA_SIZE (64ull << 20)

/* Zero the arena: every test begins with memory of its own. */
void arena_clear(void);

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

void test_frames(void);
void test_npt(void);
void test_check(void);
void test_layout(void);
void test_format(void);
void test_decode(void);
void test_linux(void);
void test_vapic(void);
void test_msr(void);
void test_gif(void);
void test_shadow(void);
void test_frame(const char *vectors);
void test_requests(void);
void test_iommu(void);
void test_consent(const char *vectors);
void test_quote(void);
void test_monitor(const char *consents, const char *vectors);

#endif
