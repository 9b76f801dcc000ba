#include "devices/tis.h"

#include "cpu/x86.h"

#define PATIENCE_MS 30000 /* for one step; making a key is the longest, and an emulated TPM waits for its processor */
#define HEADER 10         /* bytes of every answer: tag (2), length (4), code (4), all big-endian */

enum { ACCESS = 0x00, STATUS = 0x18, FIFO = 0x24, VENDOR = 0xf00 }; /* registers, 6.5.2 */

#define ACCESS_REQUEST 0x02u
#define ACCESS_ACTIVE 0x20u
#define ACCESS_VALID 0x80u

#define STATUS_EXPECT 0x08u
#define STATUS_AVAILABLE 0x10u
#define STATUS_GO 0x20u
#define STATUS_READY 0x40u
#define STATUS_VALID 0x80u

extern uint64_t tsc_khz;

/* Until these bits of the status are as they should be. */
static bool await(uint32_t bits, uint32_t wanted)
{
    uint64_t start = tsc_read();
    while ((tis_read32(STATUS) & bits) != wanted) {
        if (tsc_read() - start > tsc_khz * PATIENCE_MS) {
            return false;
        }
        cpu_relax();
    }
    return true;
}

/* How many bytes the FIFO takes or gives now; 0 when it took too long to say. */
static size_t burst(void)
{
    uint64_t start = tsc_read();
    size_t count;
    while ((count = tis_read32(STATUS) >> 8 & 0xffff) == 0 && tsc_read() - start <= tsc_khz * PATIENCE_MS) {
        cpu_relax();
    }
    return count;
}

bool tis_start(void)
{
    uint8_t access = tis_read8(ACCESS);
    if (access == 0xff || !(access & ACCESS_VALID) || tis_read32(VENDOR) == UINT32_MAX) {
        return false; /* nothing answers there */
    }
    tis_write8(ACCESS, ACCESS_REQUEST);
    uint64_t start = tsc_read();
    while (!(tis_read8(ACCESS) & ACCESS_ACTIVE)) {
        if (tsc_read() - start > tsc_khz * PATIENCE_MS) {
            return false; /* another locality has it */
        }
        cpu_relax();
    }
    return true;
}

static bool send(const uint8_t *command, size_t length)
{
    tis_write32(STATUS, STATUS_READY);
    if (!await(STATUS_READY, STATUS_READY)) {
        return false;
    }
    for (size_t done = 0; done < length;) {
        size_t count = burst();
        if (count == 0) {
            return false;
        }
        for (; count > 0 && done < length; count--) {
            tis_write8(FIFO, command[done++]);
        }
    }
    return await(STATUS_VALID | STATUS_EXPECT, STATUS_VALID); /* it has all, and expects no more */
}

static size_t receive(uint8_t *answer, size_t size)
{
    size_t wanted = HEADER;
    for (size_t done = 0; done < wanted;) {
        if (!await(STATUS_VALID | STATUS_AVAILABLE, STATUS_VALID | STATUS_AVAILABLE)) {
            return 0;
        }
        size_t count = burst();
        if (count == 0) {
            return 0;
        }
        for (; count > 0 && done < wanted; count--) {
            answer[done++] = tis_read8(FIFO);
        }
        if (done == HEADER) {
            wanted = (size_t)answer[2] << 24 | (size_t)answer[3] << 16 | (size_t)answer[4] << 8 | answer[5];
            if (wanted < HEADER || wanted > size) {
                return 0;
            }
        }
    }
    return wanted;
}

size_t tis_transfer(const uint8_t *command, size_t length, uint8_t *answer, size_t size)
{
    size_t received = 0;
    if (send(command, length)) {
        tis_write32(STATUS, STATUS_GO);
        received = receive(answer, size);
    }
    tis_write32(STATUS, STATUS_READY); /* whatever is left of it is dropped */
    return received;
}
