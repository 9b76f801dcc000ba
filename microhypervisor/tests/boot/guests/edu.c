/* Uses QEMU's educational device (docs/specs/edu.txt) for DMA between its buffer and addresses that it is given.
 * edu RESOURCE OFFSET...: for each physical address beyond this machine's memory, and for one within it, says what
 * arrived. A device that is confined reads nothing there: its buffer keeps what was in it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SOURCE = 0x80, DESTINATION = 0x88, COUNT = 0x90, COMMAND = 0x98, BUFFER = 0x40000 };
#define WORDS 8

static volatile uint8_t *device;

static void transfer(uint64_t from, uint64_t to, int towards_memory)
{
    *(volatile uint64_t *)(device + SOURCE) = from;
    *(volatile uint64_t *)(device + DESTINATION) = to;
    *(volatile uint64_t *)(device + COUNT) = WORDS * 8;
    *(volatile uint64_t *)(device + COMMAND) = 1 | towards_memory << 1;
    while (*(volatile uint64_t *)(device + COMMAND) & 1) {
    }
}

static uint64_t physical(const void *at)
{
    uint64_t entry = 0;
    int map = open("/proc/self/pagemap", O_RDONLY);
    if (pread(map, &entry, 8, (off_t)((uintptr_t)at / 4096 * 8)) != 8) {
        exit(3);
    }
    close(map);
    return (entry & ((1ull << 55) - 1)) * 4096 + (uintptr_t)at % 4096;
}

int main(int count, char **arguments)
{
    int file = open(arguments[1], O_RDWR | O_SYNC);
    device = mmap(NULL, 0x100000, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (device == MAP_FAILED || page == MAP_FAILED || count < 2) {
        return 2;
    }
    uint64_t *own = page, *back = page + 256, stolen = 0;
    for (int i = 0; i < WORDS; i++) {
        own[i] = 0x1122334455667788ull + (uint64_t)i;
    }
    transfer(physical(own), BUFFER, 0);
    transfer(BUFFER, physical(back), 1);
    printf("own memory by DMA: %s\n", memcmp(own, back, WORDS * 8) == 0 ? "arrived" : "lost");
    for (int i = 2; i < count; i++) {
        transfer(physical(own), BUFFER, 0); /* what is known is in its buffer */
        transfer(strtoull(arguments[i], NULL, 0), BUFFER, 0);
        transfer(BUFFER, physical(back), 1);
        stolen += memcmp(own, back, WORDS * 8) != 0;
        uint64_t zeros[WORDS] = {0};
        stolen -= memcmp(back, zeros, sizeof(zeros)) == 0; /* a refused read may leave zeros */
        transfer(BUFFER, strtoull(arguments[i], NULL, 0), 1);
    }
    printf("foreign memory by DMA: %llu of %d arrived\n", (unsigned long long)stolen, count - 2);
    return 0;
}
