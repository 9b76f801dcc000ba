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

/* A receiver with `least` to `most` bytes, of a frame whose payload has `length`, if its header is there already. */
static void receive(size_t least, size_t most, uint16_t length)
{
    ANYTHING(receiver);
    receiver.count = any_of(least, most);
    if (least >= 1) {
        receiver.bytes[0] = 'M';
    }
    if (least >= 2) {
        receiver.bytes[1] = 'H';
    }
    if (least >= 3) {
        receiver.bytes[2] = FRAME_VERSION;
    }
    if (least >= FRAME_HEADER) {
        store16(receiver.bytes + 6, length);
    }
    check_state();
    if (frame_receive(&receiver, (uint8_t)any_of(0, UINT8_MAX), &frame)) {
        //@ assert frame.length <= FRAME_PAYLOAD;
    }
    check_state();
}

void eva_frame(void)
{
    receiver.count = 0;
    check_state();
    //@ loop unroll 8;
    for (size_t count = 0; count < FRAME_HEADER; count++) {
        receive(count, count, 0);
    }
    //@ loop unroll 1025;
    for (uint16_t length = 0; length <= FRAME_PAYLOAD; length++) {
        size_t all = FRAME_HEADER + length + FRAME_CHECK;
        receive(FRAME_HEADER, all - 2, length);
        receive(all - 1, all - 1, length); /* the byte that ends it */
    }
    ANYTHING(frame);
    frame.length = (uint16_t)any_of(0, FRAME_PAYLOAD);
    frame_write(&frame, written);
}
