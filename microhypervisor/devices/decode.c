#include "devices/decode.h"

struct cursor {
    const uint8_t *bytes;
    unsigned count, at;
    bool past;
};

static uint8_t next(struct cursor *cursor)
{
    if (cursor->at >= cursor->count) {
        cursor->past = true;
        return 0;
    }
    return cursor->bytes[cursor->at++];
}

/* The ModRM byte and what belongs to it; the address itself is known from the fault. Returns its register field, or -1. */
static int skip_modrm(struct cursor *cursor)
{
    uint8_t modrm = next(cursor), mod = modrm >> 6, rm = modrm & 7;
    if (mod == 3) {
        return -1; /* no memory */
    }
    unsigned displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (rm == 4) {
        uint8_t base = next(cursor) & 7;
        displacement = mod == 0 && base == 5 ? 4 : displacement;
    } else if (rm == 5 && mod == 0) {
        displacement = 4; /* relative to RIP */
    }
    for (unsigned i = 0; i < displacement; i++) {
        next(cursor);
    }
    return (modrm >> 3) & 7;
}

static void immediate(struct cursor *cursor, struct access *access)
{
    access->immediate = true;
    for (unsigned i = 0; i < (access->size == 8 ? 4 : access->size); i++) {
        access->value |= (uint32_t)next(cursor) << (8 * i);
    }
}

static bool opcode(struct cursor *cursor, struct access *access, bool small, bool wide)
{
    uint8_t code = next(cursor);
    bool two_bytes = code == 0x0f;
    code = two_bytes ? next(cursor) : code;
    unsigned full = wide ? 8 : small ? 2 : 4;
    access->size = access->width = full;
    if (two_bytes) { /* MOVZX */
        access->size = code == 0xb6 ? 1 : 2;
        access->width = full;
        return code == 0xb6 || code == 0xb7;
    }
    switch (code) {
    case 0x88:
        access->size = 1;
        access->write = true;
        return true;
    case 0x89:
        access->write = true;
        return true;
    case 0x8a:
        access->size = access->width = 1;
        return true;
    case 0x8b:
        return true;
    case 0xc6:
        access->size = 1;
        access->write = access->immediate = true;
        return true;
    case 0xc7:
        access->write = access->immediate = true;
        return true;
    }
    return false;
}

bool decode(const uint8_t *bytes, unsigned count, struct access *access)
{
    struct cursor cursor = {bytes, count, 0, false};
    memset(access, 0, sizeof(*access));
    bool small = false;
    uint8_t rex = 0;
    while (cursor.at < count && (bytes[cursor.at] == 0x66 || bytes[cursor.at] == 0x3e)) { /* 0x3e: padding */
        uint8_t prefix = next(&cursor); /* always on, whatever came before: the bytes are the guest's */
        small = small || prefix == 0x66;
    }
    if (cursor.at < count && (bytes[cursor.at] & 0xf0) == 0x40) {
        rex = next(&cursor);
    }
    if (!opcode(&cursor, access, small, rex & 8)) {
        return false;
    }
    int field = skip_modrm(&cursor);
    if (field < 0 || (access->immediate && field != 0)) {
        return false;
    }
    access->number = (unsigned)field | (rex & 4 ? 8 : 0);
    if (access->size == 1 && !access->immediate && rex == 0 && field >= 4) {
        return false; /* AH, CH, DH, BH */
    }
    if (access->immediate) {
        immediate(&cursor, access);
    }
    access->length = cursor.at;
    return !cursor.past;
}
