#include "lib/log.h"

#include "cpu/x86.h"
#include "devices/serial.h"
#include "lib/format.h"

#define LINE_SIZE 256

static struct lock lock;

static void write_line(const char *prefix, const char *pattern, va_list arguments)
{
    char line[LINE_SIZE];
    size_t length = format(line, sizeof(line), pattern, arguments);
    lock_take(&lock);
    for (; *prefix != '\0'; prefix++) {
        serial_put(SERIAL_LOG, (uint8_t)*prefix);
    }
    for (size_t i = 0; i < length; i++) {
        serial_put(SERIAL_LOG, (uint8_t)line[i]);
    }
    serial_put(SERIAL_LOG, '\r');
    serial_put(SERIAL_LOG, '\n');
    lock_give(&lock);
}

void log_line(const char *pattern, ...)
{
    va_list arguments;
    va_start(arguments, pattern);
    write_line("mh: ", pattern, arguments);
    va_end(arguments);
}

_Noreturn void panic(const char *pattern, ...)
{
    va_list arguments;
    va_start(arguments, pattern);
    write_line("mh: panic: ", pattern, arguments);
    va_end(arguments);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}
