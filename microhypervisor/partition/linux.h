/* Loads a Linux kernel by its boot protocol (Documentation/arch/x86/boot.rst, 2.10 and later). */
#ifndef MH_LINUX_H
#define MH_LINUX_H

#include "lib/base.h"

struct kernel_image {
    const uint8_t *bytes; /* a whole bzImage, by somebody who is not trusted */
    uint64_t size;
    uint64_t code, code_size; /* the protected-mode part, from the image's start */
    uint64_t load, needs;     /* where it goes, and how much it uses from there until it has a map of memory */
};

/* Look at an image; NULL, or why it cannot be loaded into so much memory with so large an initrd. */
const char *kernel_read(struct kernel_image *kernel, const uint8_t *bytes, uint64_t size, uint64_t memory, uint64_t initrd);

/* Write the kernel and its boot parameters into guest memory at `guest`, `memory` bytes of which are usable. The
 * initrd's place is the highest that it fits; the caller copies it there. Returns that place. */
uint64_t kernel_load(const struct kernel_image *kernel, uint8_t *guest, uint64_t memory, uint64_t initrd);

#endif
