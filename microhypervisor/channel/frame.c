#include "channel/frame.h"

uint32_t crc32(const uint8_t *bytes, size_t length) /* IEEE 802.3, 3.2.9; reflected, as zlib's */
{
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        }
    }
    return ~crc;
}

static size_t payload_length(const uint8_t *bytes)
{
    return load16(bytes + 6);
}

/* Whether what is there can still become a frame. */
static bool plausible(const uint8_t *bytes, size_t count)
{
    return (count < 1 || bytes[0] == 'M') && (count < 2 || bytes[1] == 'H') && (count < 3 || bytes[2] == FRAME_VERSION) &&
           (count < FRAME_HEADER || payload_length(bytes) <= FRAME_PAYLOAD);
}

static bool whole(const uint8_t *bytes, size_t count)
{
    return count >= FRAME_HEADER && count == FRAME_HEADER + payload_length(bytes) + FRAME_CHECK;
}

/* Drop the first byte, and what follows it up to where a frame may begin. */
static void resume(struct receiver *receiver)
{
    size_t from = 1;
    while (from < receiver->count && !plausible(receiver->bytes + from, receiver->count - from)) {
        from++;
    }
    receiver->dropped += from;
    receiver->count -= from;
    memmove(receiver->bytes, receiver->bytes + from, receiver->count);
}

static bool checked(const struct receiver *receiver)
{
    size_t length = receiver->count - FRAME_CHECK;
    return crc32(receiver->bytes, length) == load32(receiver->bytes + length);
}

bool frame_receive(struct receiver *receiver, uint8_t byte, struct frame *frame)
{
    receiver->bytes[receiver->count++] = byte; /* there is room: a full buffer was a whole frame, and was dealt with */
    if (!plausible(receiver->bytes, receiver->count)) {
        resume(receiver);
        return false;
    }
    if (!whole(receiver->bytes, receiver->count)) {
        return false;
    }
    if (!checked(receiver)) {
        receiver->dropped += receiver->count; /* a damaged frame is dropped whole: its sender asks again */
        receiver->count = 0;
        return false;
    }
    frame->kind = receiver->bytes[3];
    frame->sequence = load16(receiver->bytes + 4);
    frame->length = (uint16_t)payload_length(receiver->bytes);
    memcpy(frame->payload, receiver->bytes + FRAME_HEADER, frame->length);
    receiver->count = 0;
    return true;
}

size_t frame_write(const struct frame *frame, uint8_t *at)
{
    at[0] = 'M';
    at[1] = 'H';
    at[2] = FRAME_VERSION;
    at[3] = frame->kind;
    store16(at + 4, frame->sequence);
    store16(at + 6, frame->length);
    memcpy(at + FRAME_HEADER, frame->payload, frame->length);
    size_t length = FRAME_HEADER + frame->length;
    store32(at + length, crc32(at, length));
    return length + FRAME_CHECK;
}
