/* What the boot loader tells: the Multiboot specification 0.6.96, 3.3. All of it is trusted, and copied before use. */
#ifndef MH_MULTIBOOT_H
#define MH_MULTIBOOT_H

#include "lib/base.h"

struct multiboot {
    uint32_t flags, memory_lower, memory_upper, boot_device, cmdline;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t map_length, map;
};

struct multiboot_module {
    uint32_t start, end, text, reserved;
};

struct multiboot_region {
    uint32_t size;
    uint64_t start, length;
    uint32_t kind; /* 1: memory to use */
} __attribute__((packed));

#endif
