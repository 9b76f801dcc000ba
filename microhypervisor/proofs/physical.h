/* Put before every file of a proof about tables: physical memory is an array of words, and memset is of whole words of it. */
#include "proofs/words.h"

/*@ requires aligned: address % 8 == 0;
    requires there: address / 8 < PHYSICAL_WORDS;
    assigns \result \from address;
    ensures \result == (void *)(physical + address / 8); */
void *at_physical(uint64_t address);

/*@ requires whole: length % 8 == 0 && byte == 0;
    requires valid: \valid((uint64_t *)at + (0 .. length / 8 - 1));
    assigns ((uint64_t *)at)[0 .. length / 8 - 1] \from byte;
    ensures \forall integer i; 0 <= i < length / 8 ==> ((uint64_t *)at)[i] == 0; */
void *memset(void *at, int byte, size_t length);
