#include "devices/console.h"

#include "lib/log.h"

enum { DATA, INTERRUPTS, FIFO, LINE, MODEM, LINE_STATUS, MODEM_STATUS, SCRATCH };
#define DIVISOR_SHOWN 0x80 /* LINE: DATA and INTERRUPTS are the divisor's */
#define LOOPBACK 0x10

static void show(struct partition *partition, char c)
{
    struct console *console = &partition->console;
    if (c != '\n' && console->line_length + 1 < sizeof(console->line)) {
        console->line[console->line_length++] = c >= ' ' && c <= '~' ? c : ' ';
        return;
    }
    console->line[console->line_length] = '\0';
    console->line_length = 0;
    log_line("[%s] %s", partition->name, console->line);
}

static void put(struct partition *partition, uint8_t byte)
{
    struct console *console = &partition->console;
    console->text[console->written++ % CONSOLE_SIZE] = (char)byte;
    if (partition->wanted->console_shown) {
        show(partition, (char)byte);
    }
}

static uint8_t modem_status(uint8_t modem)
{
    if (!(modem & LOOPBACK)) {
        return 0xb0; /* carrier, ready, clear to send */
    }
    return (uint8_t)((modem & 2) << 3 | (modem & 1) << 5 | (modem & 0x0c) << 4);
}

static uint8_t read(const uint8_t *registers, unsigned at)
{
    switch (at) {
    case DATA:
        return 0;
    case FIFO:
        /* What would interrupt: it can always send. Kernels ask when they poll, too. */
        return (registers[FIFO] & 1 ? 0xc0 : 0) | (registers[INTERRUPTS] & 2 ? 0x02 : 0x01);
    case LINE_STATUS:
        return 0x60; /* ready to send, nothing received */
    case MODEM_STATUS:
        return modem_status(registers[MODEM]);
    }
    return registers[at];
}

void console_access(struct core *core, struct io *io)
{
    struct console *console = &core->partition->console;
    uint8_t *registers = console->registers;
    unsigned at = io->port & 7;
    lock_take(&console->lock);
    bool divisor = (registers[LINE] & DIVISOR_SHOWN) && at <= INTERRUPTS;
    if (!io->write) {
        io->value = divisor ? 0 : read(registers, at);
    } else if (at == DATA && !divisor && !(registers[MODEM] & LOOPBACK)) {
        put(core->partition, (uint8_t)io->value);
    } else if (!divisor) {
        registers[at] = at == INTERRUPTS ? io->value & 0x0f : (uint8_t)io->value;
    }
    lock_give(&console->lock);
}

uint64_t console_read(struct console *console, uint64_t from, uint8_t *at, size_t size, size_t *length)
{
    lock_take(&console->lock);
    if (from > console->written || console->written - from > CONSOLE_SIZE) {
        from = console->written > CONSOLE_SIZE ? console->written - CONSOLE_SIZE : 0;
    }
    *length = 0;
    while (*length < size && from < console->written) {
        at[(*length)++] = (uint8_t)console->text[from++ % CONSOLE_SIZE];
    }
    lock_give(&console->lock);
    return from;
}
