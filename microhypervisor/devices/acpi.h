/* The tables by which a partition finds its cores, its power switch and the rest (ACPI specification 6.4, chapter 5). */
#ifndef MH_ACPI_H
#define MH_ACPI_H

#include "lib/base.h"

#define ACPI_SIZE 0x4000 /* what the tables take at most */

/* Write them at `at`, which a partition sees at the guest address `guest`; the RSDP comes first. */
void acpi_write(uint8_t *at, uint64_t guest, const uint8_t apic_ids[], unsigned count);

#endif
