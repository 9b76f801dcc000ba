#ifndef MH_IO_H
#define MH_IO_H

#include "partition/partition.h"

struct io {
    uint16_t port;
    unsigned size; /* bytes: 1, 2 or 4 */
    bool write;
    uint32_t value;
};

#define PORT_SLEEP 0x600 /* ACPI's sleep control and reset registers, told in the FADT: this machine's own */
#define PORT_RESET 0x604

/* I/O ports by allow-list: the first serial port, the clock (reading), PCI configuration, power. Elsewhere there is
 * nothing: reading gives ones, writing does nothing. */
void io_access(struct core *core, struct io *io);

#endif
