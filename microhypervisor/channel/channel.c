#include "channel/channel.h"

#include "channel/frame.h"
#include "channel/requests.h"
#include "devices/serial.h"

static struct receiver receiver;
static struct frame request, reply;
static uint8_t bytes[FRAME_SIZE];

void channel_serve(void)
{
    for (int byte = serial_get(SERIAL_CHANNEL); byte >= 0; byte = serial_get(SERIAL_CHANNEL)) {
        if (frame_receive(&receiver, (uint8_t)byte, &request)) {
            request_answer(&request, &reply);
            size_t length = frame_write(&reply, bytes);
            for (size_t i = 0; i < length; i++) {
                serial_put(SERIAL_CHANNEL, bytes[i]);
            }
        }
    }
}
