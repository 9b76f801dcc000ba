#include "devices/acpi.h"

#include "devices/apic.h"
#include "devices/io.h"

extern const unsigned char dsdt_aml_code[]; /* made by iasl from devices/dsdt.asl */

enum { RSDP_SIZE = 36, HEADER_SIZE = 36, FADT_SIZE = 276, MADT_SIZE = 44 };

/* FADT flags (5.2.9): reset register; kernels use physical APIC ids, never logical ones (every kernel believes that
 * its own is 1, so they would reach one another); hardware-reduced: no timers and ports of old. */
#define FADT_FLAGS (1u << 10 | 1u << 19 | 1u << 20)
#define NO_VGA (1u << 2)

static void checksum(uint8_t *table, uint32_t length, unsigned at)
{
    uint8_t sum = 0;
    table[at] = 0;
    for (uint32_t i = 0; i < length; i++) {
        sum = (uint8_t)(sum + table[i]);
    }
    table[at] = (uint8_t)-sum;
}

static void header(uint8_t *table, const char *signature, uint32_t length, uint8_t revision)
{
    memcpy(table, signature, 4);
    store32(table + 4, length);
    table[8] = revision;
    memcpy(table + 10, "SUPERCMICROHYP", 14);
    store32(table + 24, 1);
    memcpy(table + 28, "SCMH", 4);
    store32(table + 32, 1);
    checksum(table, length, 9);
}

static void port_register(uint8_t *at, uint16_t port) /* a generic address structure, 5.2.3.2 */
{
    at[0] = 1; /* I/O space */
    at[1] = 8;
    at[3] = 1; /* bytes */
    store64(at + 4, port);
}

static void write_fadt(uint8_t *table, uint64_t dsdt)
{
    store32(table + 40, (uint32_t)dsdt);
    store16(table + 109, NO_VGA);
    store32(table + 112, FADT_FLAGS);
    port_register(table + 116, PORT_RESET);
    table[128] = 1; /* what is written there */
    store64(table + 140, dsdt);
    port_register(table + 244, PORT_SLEEP);
    port_register(table + 256, PORT_SLEEP + 1);
    header(table, "FACP", FADT_SIZE, 6);
}

static uint32_t write_madt(uint8_t *table, const uint8_t apic_ids[], unsigned count)
{
    uint8_t *at = table + MADT_SIZE;
    store32(table + 36, (uint32_t)APIC_ADDRESS);
    for (unsigned i = 0; i < count; i++, at += 8) {
        at[0] = 0; /* a local APIC */
        at[1] = 8;
        at[2] = (uint8_t)i;
        at[3] = apic_ids[i];
        store32(at + 4, 1);
    }
    at[0] = 1; /* an IO-APIC: a page of memory that leads nowhere, without which Linux does not use its local timer */
    at[1] = 12;
    store32(at + 4, (uint32_t)IOAPIC_ADDRESS);
    at += 12;
    uint32_t length = (uint32_t)(at - table);
    header(table, "APIC", length, 5);
    return length;
}

void acpi_write(uint8_t *at, uint64_t guest, const uint8_t apic_ids[], unsigned count)
{
    enum { XSDT = 0x40, FADT = 0x100, MADT = 0x240, DSDT = 0x400 };
    memset(at, 0, ACPI_SIZE);
    memcpy(at + DSDT, dsdt_aml_code, load32(dsdt_aml_code + 4));
    write_fadt(at + FADT, guest + DSDT);
    write_madt(at + MADT, apic_ids, count);
    store64(at + XSDT + HEADER_SIZE, guest + FADT);
    store64(at + XSDT + HEADER_SIZE + 8, guest + MADT);
    header(at + XSDT, "XSDT", HEADER_SIZE + 16, 1);
    memcpy(at, "RSD PTR SUPERC", 8);
    memcpy(at + 9, "SUPERC", 6);
    at[15] = 2;
    store32(at + 20, RSDP_SIZE);
    store64(at + 24, guest + XSDT);
    checksum(at, 20, 8);
    checksum(at, RSDP_SIZE, 32);
}
