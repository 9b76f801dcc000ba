/* partition/linux.c, kernel_read: any image of any size, any memory, any initrd. The buffer ends with the header, so that
 * nothing behind it is read, however large the image is said to be. */
#include "partition/linux.h"

#include "proofs/any.h"

enum { HEADER = 0x269 };

static uint8_t bytes[HEADER];

void eva_linux(void)
{
    ANYTHING(bytes);
    struct kernel_image kernel;
    /* Of one that is shorter not one byte is read. */
    kernel_read(&kernel, bytes + HEADER, any_of(0, HEADER - 1), any_of(0, UINT64_MAX), any_of(0, UINT64_MAX));
    kernel_read(&kernel, bytes, any_of(HEADER, UINT64_MAX), any_of(0, UINT64_MAX), any_of(0, UINT64_MAX));
}
