/* The layout of the machine: which partitions there are and what each of them gets. A text, read once at machine start:
 *
 *     partition NAME           begins one; up to 15 of a-z 0-9 -
 *     cores N                  processors, 1 to 8
 *     memory MIB               128 to 3072
 *     kernel MODULE            the name of a boot module that holds a Linux bzImage
 *     initrd MODULE            the same for its initrd; may be left out
 *     cmdline TEXT             up to the end of the line
 *     device BUS:SLOT.FUNCTION a PCI function, hexadecimal; up to five
 *     start asked              it starts when the channel asks for it, and not with the machine
 *     console shown            what it writes to its first serial port is also written to L0's log
 *     tenant KEY               its tenant's Ed25519 key, 64 hexadecimal digits, not all 0; without one the channel names it for each
 *                              launch, or there is nobody who could consent
 */
#ifndef MH_LAYOUT_H
#define MH_LAYOUT_H

#include "lib/base.h"

#define MAX_PARTITIONS 8
#define MAX_CORES 8 /* of one partition */
#define MAX_DEVICES 5
#define NAME_SIZE 16
#define CMDLINE_SIZE 512
#define TENANT_SIZE 32

struct wanted {
    char name[NAME_SIZE];
    unsigned cores;
    uint64_t memory; /* bytes, a multiple of 2 MiB */
    char kernel[NAME_SIZE], initrd[NAME_SIZE];
    char cmdline[CMDLINE_SIZE];
    uint16_t devices[MAX_DEVICES]; /* bus << 8 | slot << 3 | function */
    unsigned device_count;
    bool console_shown, has_tenant, starts_asked;
    uint8_t tenant[TENANT_SIZE];
};

struct layout {
    struct wanted partitions[MAX_PARTITIONS];
    unsigned count;
    unsigned wrong_line; /* the first line that is not as above, or 0 */
};

/* Read a layout; false, with the line's number in wrong_line, if any of it is not understood. */
bool layout_read(struct layout *layout, const char *text, size_t length);

#endif
