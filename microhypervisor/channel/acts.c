#include "channel/acts.h"

#include "channel/reply.h"
#include "monitor/monitor.h"

#define PAGE_PART 1000 /* bytes of a sealed page in one reply */

static void refuse(struct frame *reply, enum consent_answer answer)
{
    reply_refuse(reply, REFUSED_CONSENT + (enum refusal)(answer - CONSENT_MALFORMED), monitor_says(answer));
}

void acts_attest(const struct frame *request, struct frame *reply)
{
    const struct partition *partition = request_partition(request, NAME_SIZE + NONCE_SIZE, reply);
    static uint8_t quote[QUOTE_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    if (partition == NULL) {
        return;
    }
    size_t quoted = monitor_attest(partition, request->payload + NAME_SIZE, signature, quote);
    reply_put(reply, partition->digest, DIGEST_SIZE);
    reply_put64(reply, partition->launches);
    reply_put8(reply, quoted > 0); /* 0: nothing but this answer says whose key it is */
    reply_put(reply, partition->tenant, TENANT_SIZE);
    reply_put(reply, monitor_key(), 32);
    reply_put(reply, signature, sizeof(signature));
    reply_put(reply, quote, quoted);
}

void acts_tenant(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE + TENANT_SIZE, reply);
    const char *why = partition == NULL ? NULL : partition_name_tenant(partition, request->payload + NAME_SIZE);
    if (why != NULL) {
        reply_refuse(reply, REFUSED_STATE, why);
    }
}

void acts_challenge(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE, reply);
    if (partition != NULL) {
        reply_put(reply, monitor_challenge(partition), CONSENT_HASH);
        reply_put64(reply, partition->launches);
    }
}

void acts_begin(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE + 17 + CONSENT_SIZE, reply);
    const uint8_t *at = request->payload + NAME_SIZE, *header;
    if (partition == NULL) {
        return;
    }
    uint64_t first = load64(at + 1), count = load64(at + 9);
    struct range pages = {first, count > UINT64_MAX - first ? UINT64_MAX : first + count};
    enum consent_answer answer = monitor_act(partition, (enum consent_operation)at[0], pages, at + 17, &header);
    if (answer != CONSENT_GIVEN) {
        refuse(reply, answer);
        return;
    }
    reply_put(reply, header, EXPORT_HEADER);
}

void acts_page(const struct frame *request, struct frame *reply)
{
    struct partition *partition = request_partition(request, NAME_SIZE + 10, reply);
    const uint8_t *at = request->payload + NAME_SIZE, *sealed;
    uint64_t version;
    if (partition == NULL) {
        return;
    }
    uint16_t from = load16(at + 8);
    if (from >= SEALED_PAGE) {
        reply_refuse(reply, REFUSED_LENGTH, "a sealed page is not so long");
        return;
    }
    enum consent_answer answer = monitor_page(partition, load64(at), &version, &sealed);
    if (answer != CONSENT_GIVEN) {
        refuse(reply, answer);
        return;
    }
    size_t part = SEALED_PAGE - from;
    part = part < PAGE_PART ? part : PAGE_PART;
    reply_put64(reply, version);
    reply_put(reply, sealed + from, part);
}

void acts_counted(const struct frame *request, struct frame *reply)
{
    const struct partition *partition = request_partition(request, NAME_SIZE, reply);
    if (partition == NULL) {
        return;
    }
    const struct acts *acts = monitor_acts(partition);
    reply_put64(reply, acts->challenges);
    reply_put64(reply, acts->pages);
    for (unsigned i = 0; i < CONSENT_ANSWERS; i++) {
        reply_put64(reply, acts->answers[i]);
    }
}
