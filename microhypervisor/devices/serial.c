#include "devices/serial.h"

#include "cpu/x86.h"

enum { DATA = 0, INTERRUPTS = 1, FIFO = 2, LINE = 3, MODEM = 4, STATUS = 5 };

void serial_init(uint16_t port, bool interrupts)
{
    out8(port + INTERRUPTS, 0);
    out8(port + LINE, 0x80); /* the divisor's registers: 115200 bits a second */
    out8(port + DATA, 1);
    out8(port + INTERRUPTS, 0);
    out8(port + LINE, 0x03); /* 8 bits, no parity, one stop bit */
    out8(port + FIFO, 0x07); /* on, cleared; interrupt at each byte */
    out8(port + MODEM, 0x0b); /* DTR, RTS; OUT2 lets interrupts through */
    out8(port + INTERRUPTS, interrupts ? 1 : 0);
}

void serial_put(uint16_t port, uint8_t byte)
{
    while (!(in8(port + STATUS) & 0x20)) {
        cpu_relax();
    }
    out8(port + DATA, byte);
}

int serial_get(uint16_t port)
{
    uint8_t status = in8(port + STATUS);
    return status != 0xff && (status & 1) ? in8(port + DATA) : -1; /* ones: there is no such port */
}
