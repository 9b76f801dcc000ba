/* L0's own interrupt table (APM 2, 8.9). On the monitor core two vectors come; elsewhere only NMIs do. */
#include "boot/trap.h"

#include "devices/apic.h"
#include "lib/log.h"

struct trap_frame {
    uint64_t registers[11];
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

struct gate {
    uint16_t low, selector, kind, middle;
    uint32_t high, reserved;
};

static struct gate table[256] __attribute__((aligned(16)));
struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) idt_pointer = {sizeof(table) - 1, (uint64_t)table};

extern const uint8_t trap_stubs[];
extern const uint8_t wait_begin[], wait_end[];
static volatile bool woken;

void trap(struct trap_frame *frame);

void trap_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t at = (uint64_t)trap_stubs + 16 * i;
        table[i] = (struct gate){(uint16_t)at, 0x08, 0x8e00, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0};
    }
}

void trap(struct trap_frame *frame)
{
    switch (frame->vector) {
    case 2: /* NMI: an order; the core looks for it as soon as it is awake */
        if (frame->rip >= (uint64_t)wait_begin && frame->rip < (uint64_t)wait_end) {
            frame->rip = (uint64_t)wait_end;
        }
        return;
    case VECTOR_CHANNEL:
    case VECTOR_WAKE:
        woken = true;
        apic_write(APIC_EOI, 0);
        return;
    case 0xff: /* spurious: no EOI (APM 2, 16.4.7) */
        return;
    }
    panic("trap %u, error 0x%x, at 0x%x, core %u", frame->vector, frame->error, frame->rip,
          (uint64_t)(apic_read(APIC_ID) >> 24));
}

void monitor_sleep(void)
{
    while (!woken) {
        __asm__ volatile("sti; hlt; cli" : : : "memory"); /* nothing comes between sti and hlt (APM 2, 8.2) */
    }
    woken = false;
}
