/* The memory functions that compilers assume. Not part of the host's build, which has its own. */
#include "lib/base.h"

void *memcpy(void *to, const void *from, size_t length)
{
    void *start = to;
    size_t words = length / 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    length &= 7;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t length)
{
    if ((uintptr_t)to - (uintptr_t)from >= length) {
        return memcpy(to, from, length);
    }
    for (size_t i = length; i-- > 0;) {
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    }
    return to;
}

void *memset(void *at, int byte, size_t length)
{
    void *start = at;
    size_t words = length / 8;
    uint64_t pattern = 0x0101010101010101ull * (uint8_t)byte;
    __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(pattern) : "memory");
    length &= 7;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(pattern) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < length; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
    }
    return length;
}
