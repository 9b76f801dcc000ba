/* Frames of the management channel: docs/spec/microhypervisor-channel.md, 1. Whatever bytes come, a receiver reads
 * within its own buffer and finds the next whole frame. */
#ifndef MH_FRAME_H
#define MH_FRAME_H

#include "lib/base.h"

#define FRAME_VERSION 1
#define FRAME_HEADER 8
#define FRAME_PAYLOAD 1024
#define FRAME_CHECK 4
#define FRAME_SIZE (FRAME_HEADER + FRAME_PAYLOAD + FRAME_CHECK)

struct frame {
    uint8_t kind;
    uint16_t sequence, length;
    uint8_t payload[FRAME_PAYLOAD];
};

struct receiver {
    uint8_t bytes[FRAME_SIZE];
    size_t count;
    uint64_t dropped; /* bytes that belonged to no frame */
};

/* Take a byte. True: it ended a frame, which is in `frame`. */
bool frame_receive(struct receiver *receiver, uint8_t byte, struct frame *frame);
/* Write a frame's bytes; returns how many. `at` has room for FRAME_SIZE. */
size_t frame_write(const struct frame *frame, uint8_t *at);
uint32_t crc32(const uint8_t *bytes, size_t length);

#endif
