/* A partition and its cores: the state that everything else works on.
 *
 * The monitor core, where L0 booted, runs no partition: it loads, measures, starts and stops them and answers the
 * management channel. Every other core belongs to one partition for good. What both touch is in `orders` and `state`,
 * and changed by atomic operations alone. */
#ifndef MH_PARTITION_H
#define MH_PARTITION_H

#include "cpu/vmcb.h"
#include "cpu/x86.h"
#include "memory/layout.h"
#include "memory/npt.h"

#define MAX_CPUS 16
#define REASON_SIZE 80
#define CONSOLE_SIZE 16384
#define DIGEST_SIZE 32

enum partition_state { STOPPED, RUNNING, PARKED, RESTARTING };

/* What a core is told by others; it looks when an NMI makes it exit, and before each VMRUN. */
enum order { ORDER_STOP = 1, ORDER_BEGIN = 2, ORDER_NMI = 4, ORDER_INIT = 8, ORDER_SIPI = 16 };

enum core_state { CORE_IDLE, CORE_WAITS_FOR_SIPI, CORE_RUNS };

/* How interrupts find L1 (nested/gif.c). Its GIF is always V_GIF of its VMCB. */
enum gate {
    GATE_OPEN,    /* GIF is set: they reach L1 as its IF says; CLGI exits */
    GATE_WATCHED, /* since #VMEXIT or CLGI, none has come: CLGI and STGI do not exit, but the first interrupt does */
    GATE_SHUT,    /* one has come while GIF was clear, and waits; STGI exits */
};

enum register_index { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

/* The table of MSI-X entries of a device, which a partition writes through L0 only (devices/msix.c). */
struct msix_window {
    uint64_t guest, host; /* where it begins, or NOWHERE */
    unsigned entries;
    unsigned capability; /* its place in configuration space */
};

struct pci_device {
    uint16_t address; /* bus << 8 | slot << 3 | function */
    uint32_t bar[6];  /* what the partition last wrote there; the device's own never change */
    struct range memory[6];
    uint32_t low_bits[6];
    struct msix_window msix;
};

struct console { /* the last bytes that a partition wrote to its first serial port */
    struct lock lock;
    uint8_t registers[8]; /* the port's, whichever core it is that looks */
    uint64_t written;
    char text[CONSOLE_SIZE];
    char line[160]; /* not yet in L0's log */
    unsigned line_length;
};

struct partition;

struct statistics {
    uint64_t exits, nested_runs, nested_exits, shadow_faults, shadow_flushes, refused;
};

struct core {
    uint32_t apic_id;
    unsigned index; /* within its partition; 0 boots */
    struct partition *partition;
    uint32_t orders; /* enum order, atomic */
    uint32_t state;  /* enum core_state, atomic */
    uint8_t sipi_vector;

    struct vmcb *vmcb, *nested_vmcb; /* of L1, and of the L2 that it runs */
    uint64_t registers[16];
    enum gate gate;
    bool nmi_pending, in_nested, flush_tlb, svm_enabled;
    uint32_t svm_features; /* the processor's own, CPUID 0x8000000a EDX */
    uint64_t hsave; /* what L1 put into VM_HSAVE_PA */

    uint32_t apic_destination; /* the upper half of the ICR that L1 wrote */
    uint32_t apic_logical;     /* its LDR: what L1 believes */
    uint32_t pci_address;      /* its port 0xcf8 */
    uint8_t clock_index;       /* its port 0x70 */

    struct nested *nested;
    struct statistics statistics;
};

struct partition {
    char name[NAME_SIZE];
    const struct wanted *wanted;
    uint32_t state; /* enum partition_state, atomic */
    uint64_t launches;
    char reason[REASON_SIZE]; /* why it is stopped or parked */
    struct core *cores[MAX_CORES];
    unsigned core_count;
    struct range memory; /* host; guest addresses from 0 */
    struct range pool_range;
    struct frames pool;
    struct space space;
    struct range kernel, initrd; /* boot modules */
    struct pci_device devices[MAX_DEVICES];
    unsigned device_count;
    uint64_t entry; /* where its kernel begins, guest physical */
    uint8_t digest[DIGEST_SIZE]; /* of all that was loaded (partition/measure.h) */
    /* Tenants' keys, of this launch and of the next; zeros: nobody. What is in memory is always the first one's. */
    uint8_t tenant[TENANT_SIZE], next_tenant[TENANT_SIZE];
    struct lock lock; /* over state and reason */
    struct console console;
    uint64_t *msrpm, *iopm; /* shared, read-only once made */
};

extern struct partition partitions[MAX_PARTITIONS];

/* Name who may consent to what is done to its next launch; NULL, or why not. Nothing changes for the launch that is there. */
const char *partition_name_tenant(struct partition *partition, const uint8_t key[TENANT_SIZE]);
/* Whether somebody is named at all. */
bool is_tenant(const uint8_t key[TENANT_SIZE]);

extern unsigned partition_count;

static inline uint32_t atomic_get(const uint32_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static inline void atomic_set(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/* Park: from a core of the partition. It does not run on until it is started again; its neighbours notice nothing. */
void partition_park(struct core *core, const char *reason, uint64_t detail);
/* The partition's own wish, by its power and reset registers. */
void partition_off(struct core *core, const char *reason);
void partition_reset(struct core *core, const char *reason);

#endif
