#include "channel/requests.h"

#include "channel/acts.h"
#include "channel/reply.h"
#include "devices/console.h"
#include "partition/control.h"

#define CONSOLE_PART 512 /* bytes of console text in one reply */

static void list(struct frame *reply)
{
    reply_put8(reply, (uint8_t)partition_count);
    for (unsigned i = 0; i < partition_count; i++) {
        struct partition *partition = &partitions[i];
        lock_take(&partition->lock); /* a core may park it at this moment */
        reply_put(reply, partition->name, NAME_SIZE);
        reply_put8(reply, (uint8_t)partition->state);
        reply_put8(reply, (uint8_t)partition->core_count);
        reply_put64(reply, partition->memory.end - partition->memory.start);
        reply_put64(reply, partition->launches);
        reply_put(reply, partition->reason, REASON_SIZE);
        lock_give(&partition->lock);
    }
}

static void change(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE, reply);
    const char *why = NULL;
    if (partition == NULL) {
        return;
    }
    if (request->kind != REQUEST_START) {
        why = partition_stop(partition, "stopped by the admin");
    }
    if (why == NULL && request->kind != REQUEST_STOP) {
        why = partition_start(partition);
    }
    if (why != NULL) {
        reply_refuse(reply, REFUSED_STATE, why);
    }
}

static void statistics(const struct frame *request, struct frame *reply)
{
    const struct partition *partition = request_partition(request, NAME_SIZE, reply);
    if (partition == NULL) {
        return;
    }
    reply_put8(reply, (uint8_t)partition->core_count);
    for (unsigned i = 0; i < partition->core_count; i++) {
        const struct statistics *of = &partition->cores[i]->statistics;
        const uint64_t values[] = {of->exits,         of->nested_runs,    of->nested_exits,
                                   of->shadow_faults, of->shadow_flushes, of->refused};
        for (unsigned v = 0; v < COUNT(values); v++) {
            reply_put64(reply, values[v]);
        }
    }
}

/* What a tenant prints is the tenant's: only what its layout shows, which is part of the measured launch, is given. */
static void console(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE + 8, reply);
    if (partition == NULL) {
        return;
    }
    if (!partition->wanted->console_shown) {
        reply_refuse(reply, REFUSED_HIDDEN, "its console is not shown");
        return;
    }
    uint64_t from = load64(request->payload + NAME_SIZE);
    size_t length;
    uint64_t until = console_read(&partition->console, from, reply->payload + 8, CONSOLE_PART, &length);
    reply_put64(reply, until);
    reply->length = (uint16_t)(reply->length + length);
}

static void measured(const struct frame *request, struct frame *reply)
{
    const struct partition *partition = request_partition(request, NAME_SIZE, reply);
    if (partition == NULL) {
        return;
    }
    reply_put(reply, partition->digest, DIGEST_SIZE);
    reply_put64(reply, partition->launches);
    reply_put8(reply, 0); /* unattested: nothing but this answer says so */
}

static void hello(struct frame *reply)
{
    reply_put8(reply, FRAME_VERSION);
    reply_put8(reply, MAX_PARTITIONS);
    reply_put64(reply, tsc_khz);
}

void request_answer(const struct frame *request, struct frame *reply)
{
    reply->kind = request->kind | REPLY;
    reply->sequence = request->sequence;
    reply->length = 0;
    switch (request->kind) {
    case REQUEST_HELLO:
    case REQUEST_LIST:
        if (request->length != 0) {
            reply_refuse(reply, REFUSED_LENGTH, "the payload's length is wrong");
            return;
        }
        request->kind == REQUEST_LIST ? list(reply) : hello(reply);
        return;
    case REQUEST_START:
    case REQUEST_STOP:
    case REQUEST_RESTART:
        change(request, reply);
        return;
    case REQUEST_STATISTICS:
        statistics(request, reply);
        return;
    case REQUEST_CONSOLE:
        console(request, reply);
        return;
    case REQUEST_MEASURE:
        measured(request, reply);
        return;
    case REQUEST_ATTEST:
        acts_attest(request, reply);
        return;
    case REQUEST_CHALLENGE:
        acts_challenge(request, reply);
        return;
    case REQUEST_ACT:
        acts_begin(request, reply);
        return;
    case REQUEST_PAGE:
        acts_page(request, reply);
        return;
    case REQUEST_ACTS:
        acts_counted(request, reply);
        return;
    case REQUEST_TENANT:
        acts_tenant(request, reply);
        return;
    }
    reply_refuse(reply, REFUSED_KIND, "there is no such request");
}
