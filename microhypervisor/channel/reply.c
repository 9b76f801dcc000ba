#include "channel/reply.h"

#include "lib/format.h"

void reply_refuse(struct frame *reply, enum refusal why, const char *text)
{
    reply->kind = REPLY_REFUSED;
    reply->payload[0] = (uint8_t)why;
    reply->length = (uint16_t)(1 + format_to((char *)reply->payload + 1, 200, "%s", text));
}

void reply_put(struct frame *reply, const void *bytes, size_t length)
{
    memcpy(reply->payload + reply->length, bytes, length);
    reply->length = (uint16_t)(reply->length + length);
}

void reply_put64(struct frame *reply, uint64_t value)
{
    uint8_t encoded[8];
    store64(encoded, value);
    reply_put(reply, encoded, sizeof(encoded));
}

void reply_put8(struct frame *reply, uint8_t value)
{
    reply_put(reply, &value, 1);
}

struct partition *request_partition(const struct frame *request, size_t length, struct frame *reply)
{
    if (request->length != length) {
        reply_refuse(reply, REFUSED_LENGTH, "the payload's length is wrong");
        return NULL;
    }
    for (unsigned i = 0; i < partition_count; i++) {
        if (memcmp(partitions[i].name, request->payload, NAME_SIZE) == 0) {
            return &partitions[i];
        }
    }
    reply_refuse(reply, REFUSED_NAME, "there is no such partition");
    return NULL;
}
