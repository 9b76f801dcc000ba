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

static void begin(size_t least, size_t most)
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
}

static void receive(uint8_t byte)
{
    check_state();
    if (frame_receive(&receiver, byte, &frame)) {
        //@ assert frame.length <= FRAME_PAYLOAD;
    }
    check_state();
}

/* The byte that ends a header: `high` of a length whose low byte is there. */
static void receive_length(uint8_t low_least, uint8_t low_most, uint8_t high)
{
    begin(FRAME_HEADER - 1, FRAME_HEADER - 1);
    receiver.bytes[6] = (uint8_t)any_of(low_least, low_most);
    receive(high);
}

static void receive_header(void)
{
    //@ loop unroll 7;
    for (size_t count = 0; count < FRAME_HEADER - 1; count++) {
        begin(count, count);
        receive((uint8_t)any_of(0, UINT8_MAX));
    }
    //@ loop unroll 4;
    for (uint8_t high = 0; high < 4; high++) {
        receive_length(0, UINT8_MAX, high);
    }
    receive_length(0, 0, 4);
    receive_length(1, UINT8_MAX, 4);
    receive_length(0, UINT8_MAX, (uint8_t)any_of(5, UINT8_MAX));
}

/* Behind a header that says `length`: a byte that does not end the frame, and the one that does. */
static void receive_rest(uint16_t length)
{
    size_t all = FRAME_HEADER + length + FRAME_CHECK;
    begin(FRAME_HEADER, all - 2);
    store16(receiver.bytes + 6, length);
    receive((uint8_t)any_of(0, UINT8_MAX));
    begin(all - 1, all - 1);
    store16(receiver.bytes + 6, length);
    receive((uint8_t)any_of(0, UINT8_MAX));
}

void eva_frame(void)
{
    receiver.count = 0;
    check_state();
    receive_header();
    //@ loop unroll 1025;
    for (uint16_t length = 0; length <= FRAME_PAYLOAD; length++) {
        receive_rest(length);
    }
    ANYTHING(frame);
    frame.length = (uint16_t)any_of(0, FRAME_PAYLOAD);
    frame_write(&frame, written);
}
