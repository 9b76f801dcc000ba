#include "lib/log.h"
#include "partition/partition.h"

bool is_tenant(const uint8_t key[TENANT_SIZE])
{
    uint8_t any = 0;
    for (unsigned i = 0; i < TENANT_SIZE; i++) {
        any |= key[i];
    }
    return any != 0;
}

const char *partition_name_tenant(struct partition *partition, const uint8_t key[TENANT_SIZE])
{
    uint32_t state = atomic_get(&partition->state);
    if (partition->wanted->has_tenant) {
        return "its layout names its tenant";
    }
    if (state == RUNNING || state == RESTARTING) {
        return "it runs, for the tenant that it has";
    }
    memcpy(partition->next_tenant, key, TENANT_SIZE);
    log_line("partition %s: its next launch is %s", partition->name, is_tenant(key) ? "a tenant's" : "nobody's");
    return NULL;
}
