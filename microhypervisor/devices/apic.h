/* The local APIC of the machine, as L0 uses it itself (APM 2, chapter 16). What partitions may do with theirs:
 * devices/vapic.h. */
#ifndef MH_APIC_H
#define MH_APIC_H

#include "lib/base.h"

#define APIC_ADDRESS 0xfee00000ull
#define IOAPIC_ADDRESS 0xfec00000ull

enum apic_register {
    APIC_ID = 0x20,
    APIC_TPR = 0x80,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ESR = 0x280,
    APIC_ICR_LOW = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERFORMANCE = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_COUNT = 0x380,
    APIC_TIMER_DIVIDE = 0x3e0,
};

#define APIC_FIXED 0x0000
#define APIC_NMI 0x0400
#define APIC_INIT 0x0500
#define APIC_SIPI 0x0600
#define APIC_ASSERT 0x4000
#define APIC_MASKED 0x10000

static inline uint32_t apic_read(uint32_t at)
{
    return *(volatile uint32_t *)(APIC_ADDRESS + at);
}

static inline void apic_write(uint32_t at, uint32_t value)
{
    /* Not by whatever instruction the compiler likes: by one that an L0 below us takes apart (devices/decode.c). */
    __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(APIC_ADDRESS + at) : "memory");
}

/* Software-enable this core's, with every local interrupt masked and no logical id: nobody reaches it by one. */
void apic_init(void);
void apic_send(uint32_t apic_id, uint32_t command);
/* Lead one line of the IO-APIC to a core and mask all the others. */
void ioapic_route(unsigned line, uint32_t apic_id, uint8_t vector);

#endif
