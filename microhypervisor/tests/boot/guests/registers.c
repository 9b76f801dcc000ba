/* Keeps numbers in all SSE registers and says whether they stay: what L0 does elsewhere must not change them. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t before[32], after[32];

static void hold(uint64_t turns)
{
    __asm__ volatile(
        "movdqu (%1), %%xmm0; movdqu 16(%1), %%xmm1; movdqu 32(%1), %%xmm2; movdqu 48(%1), %%xmm3;"
        "movdqu 64(%1), %%xmm4; movdqu 80(%1), %%xmm5; movdqu 96(%1), %%xmm6; movdqu 112(%1), %%xmm7;"
        "movdqu 128(%1), %%xmm8; movdqu 144(%1), %%xmm9; movdqu 160(%1), %%xmm10; movdqu 176(%1), %%xmm11;"
        "movdqu 192(%1), %%xmm12; movdqu 208(%1), %%xmm13; movdqu 224(%1), %%xmm14; movdqu 240(%1), %%xmm15;"
        "1: dec %0; jnz 1b;"
        "movdqu %%xmm0, (%2); movdqu %%xmm1, 16(%2); movdqu %%xmm2, 32(%2); movdqu %%xmm3, 48(%2);"
        "movdqu %%xmm4, 64(%2); movdqu %%xmm5, 80(%2); movdqu %%xmm6, 96(%2); movdqu %%xmm7, 112(%2);"
        "movdqu %%xmm8, 128(%2); movdqu %%xmm9, 144(%2); movdqu %%xmm10, 160(%2); movdqu %%xmm11, 176(%2);"
        "movdqu %%xmm12, 192(%2); movdqu %%xmm13, 208(%2); movdqu %%xmm14, 224(%2); movdqu %%xmm15, 240(%2)"
        : "+r"(turns)
        : "r"(before), "r"(after)
        : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
          "xmm12", "xmm13", "xmm14", "xmm15");
}

int main(void)
{
    for (unsigned look = 1;; look++) {
        for (unsigned i = 0; i < 32; i++) {
            before[i] = 0x9e3779b97f4a7c15ull * (look + i);
        }
        hold(20000000);
        printf(memcmp(before, after, sizeof(before)) == 0 ? "registers are as they were, look %u\n" : "registers have CHANGED, look %u\n", look);
        fflush(stdout);
    }
}
