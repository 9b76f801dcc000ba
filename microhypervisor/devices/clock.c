#include "devices/clock.h"

#define LAST_OF_TIME 0x0d /* registers 0 to 9 are the time, then the chip's state */
#define CENTURY 0x32

static struct lock chip;

void clock_access(struct core *core, struct io *io)
{
    if (io->write) {
        if (io->port == 0x70) {
            core->clock_index = io->value & 0x7f;
        }
        return;
    }
    io->value = 0xff;
    uint8_t index = core->clock_index;
    if (io->port == 0x71 && index == 0x0c) {
        io->value = 0; /* no interrupt: reading the real one would take it from nobody, but leaves no trace this way */
    } else if (io->port == 0x71 && (index <= LAST_OF_TIME || index == CENTURY)) {
        lock_take(&chip);
        out8(0x70, index);
        io->value = in8(0x71);
        lock_give(&chip);
    }
}
