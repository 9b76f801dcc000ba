#include "devices/apic.h"

#include "cpu/x86.h"

#define SPURIOUS_VECTOR 0xff

void apic_init(void)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0);
    apic_write(APIC_SVR, 0x100 | SPURIOUS_VECTOR);
    const uint32_t local[] = {APIC_LVT_TIMER, APIC_LVT_LINT0, APIC_LVT_LINT1, APIC_LVT_ERROR};
    for (unsigned i = 0; i < COUNT(local); i++) {
        apic_write(local[i], APIC_MASKED);
    }
    apic_write(APIC_TIMER_COUNT, 0);
    apic_write(APIC_TPR, 0);
}

void apic_send(uint32_t apic_id, uint32_t command)
{
    while (apic_read(APIC_ICR_LOW) & (1u << 12)) { /* the last one is still being delivered */
        cpu_relax();
    }
    apic_write(APIC_ICR_HIGH, apic_id << 24);
    apic_write(APIC_ICR_LOW, command);
}

static void ioapic_write(uint32_t at, uint32_t value)
{
    *(volatile uint32_t *)IOAPIC_ADDRESS = at;
    *(volatile uint32_t *)(IOAPIC_ADDRESS + 0x10) = value;
}

void ioapic_route(unsigned line, uint32_t apic_id, uint8_t vector)
{
    *(volatile uint32_t *)IOAPIC_ADDRESS = 1; /* version, and how many lines */
    unsigned lines = ((*(volatile uint32_t *)(IOAPIC_ADDRESS + 0x10) >> 16) & 0xff) + 1;
    for (unsigned i = 0; i < lines; i++) {
        ioapic_write(0x10 + 2 * i, APIC_MASKED);
    }
    ioapic_write(0x11 + 2 * line, apic_id << 24);
    ioapic_write(0x10 + 2 * line, vector);
}
