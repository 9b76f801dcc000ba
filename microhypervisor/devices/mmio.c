#include "devices/mmio.h"

#include "cpu/guest.h"
#include "devices/apic.h"
#include "devices/decode.h"
#include "devices/msix.h"
#include "devices/vapic.h"

#define LONGEST_INSTRUCTION 15

static uint64_t mask(unsigned bytes)
{
    return bytes == 8 ? UINT64_MAX : (1ull << (8 * bytes)) - 1;
}

static void finish_read(struct core *core, uint64_t guest, const struct access *access)
{
    uint64_t *to = guest_register(core, access->number);
    uint64_t value = mask(access->size); /* nothing is there: ones */
    if ((guest & ~(PAGE_SIZE - 1)) == APIC_ADDRESS && access->size == 4 && (guest & 15) == 0) {
        value = apic_read(guest & (PAGE_SIZE - 1)); /* mapped, but an L0 below us, whose L2 this is, does not show it */
    }
    *to = access->width >= 4 ? value : (*to & ~mask(access->width)) | value;
}

static bool write(struct core *core, uint64_t guest, const struct access *access)
{
    uint64_t value = access->immediate ? access->value : *guest_register(core, access->number) & mask(access->size);
    if ((guest & ~(PAGE_SIZE - 1)) == APIC_ADDRESS) {
        return access->size == 4 && vapic_write(core, guest & (PAGE_SIZE - 1), (uint32_t)value);
    }
    msix_write(core->partition, guest, access->size, (uint32_t)value);
    return true;
}

bool mmio_access(struct core *core, uint64_t guest, uint64_t info)
{
    uint8_t bytes[LONGEST_INSTRUCTION];
    struct access access;
    bool is_memory = guest < core->partition->memory.end - core->partition->memory.start;
    if (is_memory || (info & NPF_TABLE) || (info & NPF_FETCH)) {
        return false;
    }
    if (!decode(bytes, guest_fetch(core, bytes, sizeof(bytes)), &access)) {
        return false;
    }
    if (access.write != ((info & NPF_WRITE) != 0)) {
        return false; /* the code was changed meanwhile */
    }
    if (access.write && !write(core, guest, &access)) {
        return false;
    }
    if (!access.write) {
        finish_read(core, guest, &access);
    }
    guest_skip(core, access.length);
    return true;
}
