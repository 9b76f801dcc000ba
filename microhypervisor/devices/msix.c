#include "devices/msix.h"

#include "devices/apic.h"
#include "lib/log.h"
#include "memory/physical.h"

bool msix_allowed(const struct partition *partition, unsigned word, uint32_t value)
{
    if (word == 0) {
        uint32_t to = (value >> 12) & 0xff;
        bool own = false;
        for (unsigned i = 0; i < partition->core_count; i++) {
            own = own || partition->cores[i]->apic_id == to;
        }
        return own && (value & 0xfff00fff) == APIC_ADDRESS;
    }
    if (word == 1) {
        return value == 0;
    }
    return word == 3 || ((value & ~0xffu) == 0 && value >= 16);
}

void msix_write(struct partition *partition, uint64_t guest, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < partition->device_count; i++) {
        const struct pci_device *device = &partition->devices[i];
        uint64_t at = guest - device->msix.guest;
        if (device->msix.guest == NOWHERE || guest < device->msix.guest || at >= device->msix.entries * 16) {
            continue;
        }
        if (size == 4 && (at & 3) == 0 && msix_allowed(partition, (at / 4) & 3, value)) {
            *(volatile uint32_t *)at_physical(device->msix.host + at) = value;
        }
        return;
    }
}
