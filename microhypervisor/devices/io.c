#include "devices/io.h"

#include "devices/clock.h"
#include "devices/console.h"
#include "devices/pci.h"

void io_access(struct core *core, struct io *io)
{
    uint16_t port = io->port;
    if (port >= 0xcf8 && port <= 0xcff) {
        pci_access(core, io);
    } else if (io->size == 1 && port >= 0x3f8 && port <= 0x3ff) {
        console_access(core, io);
    } else if (io->size == 1 && (port == 0x70 || port == 0x71)) {
        clock_access(core, io);
    } else if (io->write && port == PORT_SLEEP && (io->value & 0x20)) { /* SLP_EN: there is only S5 */
        partition_off(core, "powered off");
    } else if (io->write && port == PORT_RESET) {
        partition_reset(core, "reset");
    } else if (!io->write) { /* the timer of old stands still at 0: with ones, Linux waits for it 50,000 times */
        io->value = port >= 0x40 && port <= 0x43 ? 0 : 0xffffffff;
    }
}
