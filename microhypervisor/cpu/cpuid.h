#ifndef MH_CPUID_H
#define MH_CPUID_H

#include "partition/partition.h"

/* How long a partition's physical addresses are; no processor with nested paging has fewer. */
#define CPUID_ADDRESS_BITS 40

/* The hypervisors' leaf, by their own convention, that has the clock's speed in kHz. */
#define CPUID_CLOCK 0x40000010

/* What CPUID tells a partition: leaves by allow-list, and of each what a partition has (APM 3, appendix E). */
struct cpuid cpuid_filtered(const struct core *core, uint32_t leaf, uint32_t sub);

#endif
