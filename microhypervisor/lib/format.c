#include "lib/format.h"

struct out {
    char *at;
    size_t size, length;
};

static void put(struct out *out, char c)
{
    if (out->length + 1 < out->size) {
        out->at[out->length++] = c;
    }
}

static void put_number(struct out *out, uint64_t value, unsigned base)
{
    char digits[20];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (count > 0) {
        put(out, digits[--count]);
    }
}

size_t format(char *at, size_t size, const char *pattern, va_list arguments)
{
    struct out out = {at, size, 0};
    for (; *pattern != '\0'; pattern++) {
        if (*pattern != '%') {
            put(&out, *pattern);
            continue;
        }
        switch (*++pattern) {
        case 's':
            for (const char *text = va_arg(arguments, const char *); *text != '\0'; text++) {
                put(&out, *text);
            }
            break;
        case 'u':
            put_number(&out, va_arg(arguments, uint64_t), 10);
            break;
        case 'x':
            put_number(&out, va_arg(arguments, uint64_t), 16);
            break;
        case '%':
            put(&out, '%');
            break;
        default: /* a mistake in the pattern: stop before arguments are misread */
            at[out.length] = '\0';
            return out.length;
        }
    }
    at[out.length] = '\0';
    return out.length;
}

size_t format_to(char *at, size_t size, const char *pattern, ...)
{
    va_list arguments;
    va_start(arguments, pattern);
    size_t length = format(at, size, pattern, arguments);
    va_end(arguments);
    return length;
}
