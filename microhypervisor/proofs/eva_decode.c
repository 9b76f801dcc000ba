/* devices/decode.c: any bytes, of every length up to more than an instruction has. */
#include "devices/decode.h"

#include "proofs/any.h"

enum { LONGEST = 16 };

static uint8_t bytes[LONGEST];

void eva_decode(void)
{
    ANYTHING(bytes);
    //@ loop unroll 17;
    for (unsigned count = 0; count <= LONGEST; count++) {
        struct access access;
        if (decode(bytes + LONGEST - count, count, &access)) {
            //@ assert access.length <= count;
            //@ assert access.number < 16;
            //@ assert access.size == 1 || access.size == 2 || access.size == 4 || access.size == 8;
        }
    }
}
