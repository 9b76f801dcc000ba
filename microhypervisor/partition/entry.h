/* The states in which a partition's cores begin. */
#ifndef MH_ENTRY_H
#define MH_ENTRY_H

#include "partition/partition.h"

/* Where the loader puts things, in guest memory (partition/linux.c). */
#define GUEST_BOOT_PARAMS 0x10000ull
#define GUEST_CMDLINE 0x20000ull
#define GUEST_ACPI 0xe0000ull
#define GUEST_RESET_VECTOR 0xffff0ull

void core_enter_kernel(struct core *core);                     /* Linux' 32-bit entry; cores but the first wait */
void core_enter_real_mode(struct core *core, uint8_t vector); /* what a SIPI does (APM 2, 16.7.2) */

#endif
