/* The few instructions by which kernels touch devices in memory, decoded (APM 3, 1.2 and appendix A). */
#ifndef MH_DECODE_H
#define MH_DECODE_H

#include "lib/base.h"

struct access {
    bool write;
    bool immediate;        /* the value is in the instruction, else in a register */
    unsigned size;         /* bytes of memory: 1, 2, 4 or 8 */
    unsigned number;       /* of the register */
    unsigned width;        /* bytes of the register that a read changes; 4 also clears its upper half */
    uint32_t value;        /* if immediate */
    unsigned length;       /* of the instruction */
};

/* Decode 64-bit code. False: not a plain MOV to or from memory, or more bytes would be needed. */
bool decode(const uint8_t *bytes, unsigned count, struct access *access);

#endif
