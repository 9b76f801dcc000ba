/* What every file may use: sizes, small helpers, memory functions. Nothing here touches the machine. */
#ifndef MH_BASE_H
#define MH_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 0x1000ull
#define LARGE_SIZE 0x200000ull
#define NOWHERE UINT64_MAX /* no physical address */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Physical addresses from start up to, but not including, end. */
struct range {
    uint64_t start, end;
};

static inline bool range_overlaps(struct range a, struct range b)
{
    return a.start < b.end && b.start < a.end;
}

/* Whether [start, start + length) lies within the range; lengths that wrap do not. */
/*@ assigns \nothing;
    ensures \result <==> r.start <= start && start + length <= r.end; */
static inline bool range_holds(struct range r, uint64_t start, uint64_t length)
{
    return start >= r.start && start <= r.end && length <= r.end - start;
}

static inline uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *at, int byte, size_t length);
int memcmp(const void *a, const void *b, size_t length);
size_t strlen(const char *text);

static inline bool same_text(const char *a, const char *b)
{
    size_t length = strlen(a);
    return length == strlen(b) && memcmp(a, b, length) == 0;
}

static inline uint16_t load16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t load32(const uint8_t *at)
{
    return load16(at) | (uint32_t)load16(at + 2) << 16;
}

static inline uint64_t load64(const uint8_t *at)
{
    return load32(at) | (uint64_t)load32(at + 4) << 32;
}

static inline void store16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void store32(uint8_t *at, uint32_t value)
{
    store16(at, (uint16_t)value);
    store16(at + 2, (uint16_t)(value >> 16));
}

static inline void store64(uint8_t *at, uint64_t value)
{
    store32(at, (uint32_t)value);
    store32(at + 4, (uint32_t)(value >> 32));
}

#endif
