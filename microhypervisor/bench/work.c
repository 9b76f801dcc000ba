/* The workloads of `supercloud bench microhypervisor`, the same in L1 and in L2: fixed amounts of work, each between two
 * marks that the meter sees (bench/meter.c). A mark is a long NOP: it costs one instruction and no exit, at any level. */
#define _GNU_SOURCE /* O_DIRECT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "marks.h"

#define MARK(number) __asm__ volatile(".byte 0x0f, 0x1f, 0x80; .long %c0" ::"i"(MARK_MAGIC << 8 | (number)) : "memory")

#define CPU_STEPS 4000000u
#define MEMORY_SIZE (16ul << 20)
#define MEMORY_STEPS 1000000u
#define BLOCK 4096u
#define BLOCKS 256u
#define ROUND_TRIPS 300u
#define MESSAGE 64u
#define BULK (2ul << 20)
#define CHUNK 65536u
#define PORT 5000

static volatile uint64_t sink;

static void die(const char *what)
{
    printf("bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t next(uint64_t x) /* xorshift64 */
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static void cpu(void)
{
    uint64_t x = 88172645463325252ull, sum = 0;
    for (unsigned i = 0; i < CPU_STEPS; i++) {
        x = next(x);
        sum += x % 1021;
    }
    sink = sum;
}

/* Read and write all over memory that is there already: translations are what it asks for. */
static void memory(unsigned char *all)
{
    uint64_t x = 88172645463325252ull;
    for (unsigned i = 0; i < MEMORY_STEPS; i++) {
        x = next(x);
        all[x % MEMORY_SIZE] += (unsigned char)x;
    }
    memmove(all, all + MEMORY_SIZE / 2, MEMORY_SIZE / 2);
}

/* Blocks here and there past the cache, every other one written, then all of them in order. */
static void disk(int file, unsigned char *block)
{
    uint64_t x = 88172645463325252ull;
    for (unsigned i = 0; i < BLOCKS; i++) {
        x = next(x);
        off_t at = (off_t)(x % BLOCKS) * BLOCK;
        ssize_t done = i % 2 ? pwrite(file, block, BLOCK, at) : pread(file, block, BLOCK, at);
        if (done != BLOCK) {
            die("disk");
        }
    }
    for (unsigned at = 0; at < BLOCKS * BLOCK; at += CHUNK) {
        if (pread(file, block, CHUNK, at) != CHUNK) {
            die("disk");
        }
    }
}

static void receive(int peer, unsigned char *into, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t more = recv(peer, into, size - got < CHUNK ? size - got : CHUNK, 0);
        if (more <= 0) {
            die("receiving");
        }
        got += (size_t)more;
    }
}

static void transmit(int peer, const unsigned char *from, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t more = send(peer, from, size - sent < CHUNK ? size - sent : CHUNK, 0);
        if (more <= 0) {
            die("sending");
        }
        sent += (size_t)more;
    }
}

/* Short messages there and back, one after another, then a long one. */
static void network(int peer, unsigned char *buffer)
{
    for (unsigned i = 0; i < ROUND_TRIPS; i++) {
        transmit(peer, buffer, MESSAGE);
        receive(peer, buffer, MESSAGE);
    }
    transmit(peer, buffer, BULK);
    receive(peer, buffer, 1);
}

static struct sockaddr_in address(const char *host)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, host, &to.sin_addr);
    return to;
}

/* The other end of `network`, for one peer, as often as it wants. */
static void serve(unsigned times)
{
    static unsigned char buffer[CHUNK];
    struct sockaddr_in here = address("0.0.0.0");
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(listener, (struct sockaddr *)&here, sizeof(here)) != 0 || listen(listener, 1) != 0) {
        die("listening");
    }
    if (fork() != 0) {
        exit(0); /* it listens: whoever started this may go on */
    }
    int peer = accept(listener, NULL, NULL);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    for (unsigned round = 0; round < times; round++) {
        for (unsigned i = 0; i < ROUND_TRIPS; i++) {
            receive(peer, buffer, MESSAGE);
            transmit(peer, buffer, MESSAGE);
        }
        receive(peer, buffer, BULK);
        transmit(peer, buffer, 1);
    }
}

static int connected(const char *host)
{
    struct sockaddr_in to = address(host);
    int peer = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if (connect(peer, (struct sockaddr *)&to, sizeof(to)) != 0) {
        die("connecting");
    }
    return peer;
}

static unsigned char *touched(size_t size)
{
    unsigned char *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (all == MAP_FAILED) {
        die("memory");
    }
    return all;
}

/* work NAME TIMES [FILE | HOST]; `work boots PROGRAM...` marks that an L2 is being booted, and runs the program. */
int main(int count, char **words)
{
    const char *name = count > 1 ? words[1] : "";
    unsigned times = count > 2 ? (unsigned)atoi(words[2]) : 0;
    if (strcmp(name, "boots") == 0) {
        MARK(MARK_L2_BOOT);
        execv(words[2], words + 2);
        die(words[2]);
    } else if (strcmp(name, "booted") == 0) {
        MARK(MARK_L2_BOOT | MARK_END);
    } else if (strcmp(name, "l1-cpu") == 0) {
        for (; times > 0; times--) {
            MARK(MARK_L1_CPU);
            cpu();
            MARK(MARK_L1_CPU | MARK_END);
        }
    } else if (strcmp(name, "l2-cpu") == 0) {
        for (; times > 0; times--) {
            MARK(MARK_L2_CPU);
            cpu();
            MARK(MARK_L2_CPU | MARK_END);
        }
    } else if (strcmp(name, "l1-memory") == 0) {
        unsigned char *all = touched(MEMORY_SIZE);
        for (; times > 0; times--) {
            MARK(MARK_L1_MEMORY);
            memory(all);
            MARK(MARK_L1_MEMORY | MARK_END);
        }
    } else if (strcmp(name, "l2-memory") == 0) {
        unsigned char *all = touched(MEMORY_SIZE);
        for (; times > 0; times--) {
            MARK(MARK_L2_MEMORY);
            memory(all);
            MARK(MARK_L2_MEMORY | MARK_END);
        }
    } else if (strcmp(name, "l2-disk") == 0 && count > 3) {
        unsigned char *block = touched(CHUNK);
        int file = open(words[3], O_RDWR | O_DIRECT);
        for (; times > 0; times--) {
            MARK(MARK_L2_DISK);
            disk(file, block);
            MARK(MARK_L2_DISK | MARK_END);
        }
    } else if (strcmp(name, "l2-network") == 0 && count > 3) {
        unsigned char *buffer = touched(CHUNK);
        int peer = connected(words[3]);
        for (; times > 0; times--) {
            MARK(MARK_L2_NETWORK);
            network(peer, buffer);
            MARK(MARK_L2_NETWORK | MARK_END);
        }
    } else if (strcmp(name, "serve") == 0) {
        serve(times);
    } else {
        printf("bench: no such work\n");
        return 1;
    }
    return 0;
}
