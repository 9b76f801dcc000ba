#include "devices/pci.h"

#include "lib/log.h"

enum { ID = 0x00, COMMAND = 0x04, CLASS = 0x08, HEADER = 0x0c, BAR0 = 0x10, ROM = 0x30, CAPABILITIES = 0x34, PIN = 0x3c };

#define COMMAND_MEMORY 2u
#define COMMAND_MASTER 4u
#define COMMAND_NO_INTX 0x400u
#define CAPABILITY_MSIX 0x11
#define MSIX_ENABLE 0x8000u

static struct lock lock;

static uint32_t mechanism1(uint16_t address, unsigned at)
{
    return 1u << 31 | (uint32_t)address << 8 | (at & 0xfc);
}

uint32_t pci_read(uint16_t address, unsigned at)
{
    lock_take(&lock);
    out32(0xcf8, mechanism1(address, at));
    uint32_t value = in32(0xcfc);
    lock_give(&lock);
    return value;
}

void pci_write(uint16_t address, unsigned at, uint32_t value)
{
    lock_take(&lock);
    out32(0xcf8, mechanism1(address, at));
    out32(0xcfc, value);
    lock_give(&lock);
}

/* The status half of the register is cleared by ones, so it is written as zeros. */
static void set_command(uint16_t address, uint32_t clear, uint32_t set)
{
    pci_write(address, COMMAND, ((pci_read(address, COMMAND) & 0xffff) & ~clear) | set);
}

void pci_silence(void)
{
    for (uint32_t address = 0; address < 0x10000; address++) {
        if (pci_read((uint16_t)address, ID) != 0xffffffff) {
            set_command((uint16_t)address, COMMAND_MASTER, COMMAND_NO_INTX);
        }
    }
}

/* Sizes of the base addresses, found as PCI 3.0, 6.2.5.1 has it, with the function's decoding switched off. */
static bool size_bars(struct pci_device *device)
{
    uint16_t address = device->address;
    set_command(address, 3, 0);
    for (unsigned i = 0; i < 6; i++) {
        uint32_t low = pci_read(address, BAR0 + 4 * i);
        bool io = low & 1, wide = !io && (low & 6) == 4 && i < 5;
        uint64_t base = io ? 0 : low & ~0xfu, size;
        pci_write(address, BAR0 + 4 * i, 0xffffffff);
        uint32_t ones = pci_read(address, BAR0 + 4 * i);
        pci_write(address, BAR0 + 4 * i, low);
        device->bar[i] = low;
        device->low_bits[i] = low & (io ? 3 : 0xf);
        size = io || (ones & ~0xfu) == 0 ? 0 : (uint32_t)(~(ones & ~0xfu) + 1);
        if (wide) {
            base |= (uint64_t)pci_read(address, BAR0 + 4 * (i + 1)) << 32;
            device->bar[i + 1] = (uint32_t)(base >> 32);
        }
        device->memory[i] = (struct range){base, base + size};
        i += wide;
        if (size > 0 && size < PAGE_SIZE) {
            return false; /* its neighbour on the page may be another's */
        }
    }
    return true;
}

static void find_msix(struct pci_device *device)
{
    device->msix = (struct msix_window){NOWHERE, NOWHERE, 0, 0};
    unsigned at = pci_read(device->address, CAPABILITIES) & 0xfc;
    for (unsigned hops = 0; at != 0 && hops < 48; hops++) {
        uint32_t head = pci_read(device->address, at);
        if ((head & 0xff) == CAPABILITY_MSIX) {
            uint32_t table = pci_read(device->address, at + 4);
            if ((table & 7) < 6) {
                device->msix.host = device->msix.guest = device->memory[table & 7].start + (table & ~7u);
                device->msix.entries = ((head >> 16) & 0x7ff) + 1;
                device->msix.capability = at;
            }
            return;
        }
        at = (head >> 8) & 0xfc;
    }
}

bool pci_adopt(struct pci_device *device, uint16_t address)
{
    memset(device, 0, sizeof(*device));
    device->address = address;
    bool endpoint = ((pci_read(address, HEADER) >> 16) & 0x7f) == 0;
    if (pci_read(address, ID) == 0xffffffff || !endpoint || address == 0 || !size_bars(device)) {
        return false;
    }
    find_msix(device);
    set_command(address, 3, COMMAND_MEMORY | COMMAND_NO_INTX);
    return true;
}

void pci_reset(struct pci_device *device)
{
    set_command(device->address, COMMAND_MASTER, COMMAND_MEMORY | COMMAND_NO_INTX);
    if (device->msix.capability != 0) {
        uint32_t head = pci_read(device->address, device->msix.capability);
        pci_write(device->address, device->msix.capability, head & ~(MSIX_ENABLE << 16));
    }
    for (unsigned i = 0; i < 6; i++) {
        device->bar[i] = pci_read(device->address, BAR0 + 4 * i);
    }
}

static uint32_t bar_mask(const struct pci_device *device, unsigned i)
{
    uint64_t size = device->memory[i].end - device->memory[i].start;
    if (size > 0) {
        return (uint32_t)~(size - 1) & ~0xfu;
    }
    bool upper = i > 0 && (device->low_bits[i - 1] & 6) == 4 && device->memory[i - 1].end > device->memory[i - 1].start;
    return upper ? 0xffffffff : 0;
}

static uint32_t device_read(const struct pci_device *device, unsigned at)
{
    if (at >= BAR0 && at < BAR0 + 24) {
        unsigned i = (at - BAR0) / 4;
        return bar_mask(device, i) == 0 ? 0 : device->bar[i];
    }
    if (at == ROM) {
        return 0;
    }
    uint32_t value = pci_read(device->address, at);
    return at == PIN ? value & 0xffff00ff : at == HEADER ? value & 0xff7fffff : value;
}

static void device_write(struct pci_device *device, unsigned at, unsigned size, uint32_t value)
{
    if (at == COMMAND && size >= 2) {
        value &= COMMAND_MEMORY | COMMAND_MASTER;
        set_command(device->address, COMMAND_MEMORY | COMMAND_MASTER, value | COMMAND_NO_INTX);
    } else if (at >= BAR0 && at < BAR0 + 24 && size == 4 && (at & 3) == 0) {
        unsigned i = (at - BAR0) / 4;
        device->bar[i] = (value & bar_mask(device, i)) | device->low_bits[i];
    } else if (device->msix.capability != 0 && at == device->msix.capability + 2 && size == 2) {
        uint32_t head = pci_read(device->address, device->msix.capability) & 0xffff;
        pci_write(device->address, device->msix.capability, head | value << 16);
    }
}

/* The host bridge that kernels look for before they believe in mechanism 1; QEMU's generic one by its numbers. */
static uint32_t bridge_read(unsigned at)
{
    return at == ID ? 0x00081b36 : at == CLASS ? 0x06000000 : 0;
}

static struct pci_device *find(struct partition *partition, uint32_t address)
{
    for (unsigned i = 0; i < partition->device_count; i++) {
        if (partition->devices[i].address == address) {
            return &partition->devices[i];
        }
    }
    return NULL;
}

static void data_access(struct core *core, struct io *io)
{
    uint32_t where = core->pci_address;
    unsigned at = where & 0xfc, shift = 8 * (io->port & 3);
    struct pci_device *device = find(core->partition, (where >> 8) & 0xffff);
    if (!(where >> 31) || (io->port & 3) + io->size > 4) {
        io->value = io->write ? io->value : 0xffffffff;
    } else if (!io->write) {
        bool bridge = ((where >> 8) & 0xffff) == 0;
        io->value = (device != NULL ? device_read(device, at) : bridge ? bridge_read(at) : 0xffffffff) >> shift;
    } else if (device != NULL) {
        device_write(device, at + (io->port & 3), io->size, io->value);
    }
}

void pci_access(struct core *core, struct io *io)
{
    if (io->port >= 0xcfc) {
        data_access(core, io);
    } else if (io->port == 0xcf8 && io->size == 4) {
        core->pci_address = io->write ? io->value : core->pci_address;
        io->value = core->pci_address;
    } else if (!io->write) {
        io->value = 0xffffffff;
    }
}
