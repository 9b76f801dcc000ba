#include "partition/measure.h"

#include <sodium/crypto_hash_sha256.h>

#include "memory/physical.h"

static void add(crypto_hash_sha256_state *state, const void *bytes, uint64_t length)
{
    uint8_t encoded[8];
    store64(encoded, length);
    crypto_hash_sha256_update(state, encoded, sizeof(encoded));
    crypto_hash_sha256_update(state, bytes, length);
}

static void add_number(crypto_hash_sha256_state *state, uint64_t value)
{
    uint8_t encoded[8];
    store64(encoded, value);
    add(state, encoded, sizeof(encoded));
}

void measure(struct partition *partition, const char *cmdline)
{
    crypto_hash_sha256_state state;
    uint8_t devices[2 * MAX_DEVICES];
    crypto_hash_sha256_init(&state);
    add(&state, at_physical(partition->kernel.start), partition->kernel.end - partition->kernel.start);
    add(&state, at_physical(partition->initrd.start), partition->initrd.end - partition->initrd.start);
    add(&state, cmdline, strlen(cmdline));
    add_number(&state, partition->memory.end - partition->memory.start);
    add_number(&state, partition->core_count);
    for (unsigned i = 0; i < partition->device_count; i++) {
        store16(devices + 2 * i, partition->devices[i].address);
    }
    add(&state, devices, 2 * partition->device_count);
    add_number(&state, partition->wanted->console_shown);
    add(&state, partition->tenant, is_tenant(partition->tenant) ? TENANT_SIZE : 0);
    crypto_hash_sha256_final(&state, partition->digest);
}
