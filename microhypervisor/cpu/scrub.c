#include "cpu/scrub.h"

#include "cpu/x86.h"

#define XSAVE_LEGACY 576 /* 512 bytes and the header; all that is read where the header says "as after a reset" */
#define MXCSR_AT 24
#define MXCSR_RESET 0x1f80

static void set_xcr0(uint64_t value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static void set_cr4(uint64_t clear, uint64_t set)
{
    uint64_t value;
    __asm__ volatile("mov %%cr4, %0" : "=r"(value));
    __asm__ volatile("mov %0, %%cr4" : : "r"((value & ~clear) | set) : "memory");
}

void scrub_registers(void)
{
    static const struct {
        uint8_t bytes[XSAVE_LEGACY];
    } area __attribute__((aligned(64))) = {.bytes = {[MXCSR_AT] = MXCSR_RESET & 0xff, [MXCSR_AT + 1] = MXCSR_RESET >> 8}};
    struct cpuid parts = cpuid_read(0xd, 0);
    set_cr4(0, CR4_OSXSAVE);
    set_xcr0((uint64_t)parts.d << 32 | parts.a);
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(parts.a), "d"(parts.d)); /* APM 1, 11.2; APM 4, XRSTOR */
    set_xcr0(1);
    set_cr4(CR4_OSXSAVE, 0);
    __asm__ volatile("mov %0, %%db0; mov %0, %%db1; mov %0, %%db2; mov %0, %%db3" : : "r"(0ull));
}
