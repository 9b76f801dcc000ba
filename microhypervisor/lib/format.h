#ifndef MH_FORMAT_H
#define MH_FORMAT_H

#include <stdarg.h>

#include "lib/base.h"

/* Write text into at, always ended by a zero byte and cut if it does not fit; returns its length.
 * %s text, %u decimal uint64_t, %x hexadecimal uint64_t, %%. Numbers are always uint64_t: no lengths to get wrong. */
size_t format(char *at, size_t size, const char *pattern, va_list arguments);
size_t format_to(char *at, size_t size, const char *pattern, ...);

#endif
