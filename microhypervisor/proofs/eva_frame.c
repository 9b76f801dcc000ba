/* channel/frame.c: any byte to a receiver in any state that it can be in, and any frame written. A state is: a count of bytes
 * which begin as a frame does, and are not yet one. That it holds at first, and again after each byte, is what makes this a
 * proof for any number of bytes. */
#include "channel/frame.h"

#include "proofs/any.h"

static struct receiver receiver;
static struct frame frame;
static uint8_t written[FRAME_SIZE];

static void check_state(void)
{
    //@ assert room: receiver.count < FRAME_SIZE;
    //@ assert begins: (receiver.count < 1 || receiver.bytes[0] == 'M') && (receiver.count < 2 || receiver.bytes[1] == 'H');
    //@ assert version: receiver.count < 3 || receiver.bytes[2] == FRAME_VERSION;
    //@ assert bounded: receiver.count < 8 || receiver.bytes[6] + 256 * receiver.bytes[7] <= FRAME_PAYLOAD;
    //@ assert unfinished: receiver.count < 8 || receiver.count < receiver.bytes[6] + 256 * receiver.bytes[7] + 12;
}

/* A receiver that has `count` bytes, whose frame's length is `high` * 256 and between `least` and `most`. */
static void receive(size_t count, uint8_t high, uint8_t least, uint8_t most)
{
    ANYTHING(receiver);
    receiver.dropped = any_of(0, UINT64_MAX);
    receiver.count = count;
    if (count >= 1) {
        receiver.bytes[0] = 'M';
    }
    if (count >= 2) {
        receiver.bytes[1] = 'H';
    }
    if (count >= 3) {
        receiver.bytes[2] = FRAME_VERSION;
    }
    if (count >= FRAME_HEADER) {
        receiver.bytes[6] = (uint8_t)any_of(least, most);
        receiver.bytes[7] = high;
    }
    check_state();
    if (frame_receive(&receiver, (uint8_t)any_of(0, 255), &frame)) {
        //@ assert frame.length <= FRAME_PAYLOAD;
    }
    check_state();
}

/* Every length that is not yet reached; the one that the next byte reaches by itself. */
static void receive_after(size_t count)
{
    size_t reached = count + 1 < FRAME_HEADER + FRAME_CHECK ? 0 : count + 1 - FRAME_HEADER - FRAME_CHECK;
    //@ loop unroll 5;
    for (unsigned high = 0; high <= 4; high++) {
        unsigned last = high == 4 ? 0 : 255, first = 0;
        if (high * 256 + last < reached) {
            continue;
        }
        if (high * 256 <= reached) {
            first = (unsigned)(reached - high * 256);
            receive(count, (uint8_t)high, (uint8_t)first, (uint8_t)first);
            first++;
        }
        if (first <= last) {
            receive(count, (uint8_t)high, (uint8_t)first, (uint8_t)last);
        }
    }
}

void eva_frame(void)
{
    receiver.count = 0;
    check_state();
    //@ loop unroll 8;
    for (size_t count = 0; count < FRAME_HEADER; count++) {
        receive(count, 0, 0, 0);
    }
    //@ loop unroll 1028;
    for (size_t count = FRAME_HEADER; count < FRAME_SIZE; count++) {
        receive_after(count);
    }
    ANYTHING(frame);
    frame.length = (uint16_t)any_of(0, FRAME_PAYLOAD);
    frame_write(&frame, written);
}
