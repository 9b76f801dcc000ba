/* A hostile L1: tries what no partition may, and says what came of it on its serial port. Each try must be refused as
 * hardware would refuse it; the last one parks the partition. */
#include "cpu/vmcb.h"

#define SERIAL 0x3f8
#define APIC 0xfee00000u
#define MEMORY (256ull << 20)  /* what the layout gives it */
#define BEYOND (512ull << 20)  /* not its own, though the machine has memory there */
#define MUTATIONS 100000
#define PAGES 3000 /* of an L2, each 2 MiB from the others: a table of its own, and a core's pool has 1,024 frames */

struct gate {
    uint16_t low, selector, kind, middle;
    uint32_t high, reserved;
};

static struct gate idt[256] __attribute__((aligned(16)));
struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) idt_pointer = {sizeof(idt) - 1, (uint64_t)idt};
volatile uint32_t faulted, interrupts;
volatile uint64_t resume, fault_stack;
extern const uint8_t on_fault[], on_interrupt[];

static struct vmcb vmcb __attribute__((aligned(4096)));
static uint8_t host_save[4096] __attribute__((aligned(4096)));
static uint8_t msrpm[8192] __attribute__((aligned(4096))), iopm[12288] __attribute__((aligned(4096)));
static uint64_t tables[4][512] __attribute__((aligned(4096)));
static uint8_t halts[4096] __attribute__((aligned(4096))); /* what L2 executes, wherever it is */
static unsigned tries, wrong;

void guest_main(void);

void *memset(void *at, int byte, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        ((volatile uint8_t *)at)[i] = (uint8_t)byte;
    }
    return at;
}

void *memcpy(void *to, const void *from, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    }
    return to;
}

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t pci(uint32_t address)
{
    uint32_t value;
    __asm__ volatile("outl %0, %w1" : : "a"(address), "d"(0xcf8));
    __asm__ volatile("inl %w1, %0" : "=a"(value) : "d"(0xcfc));
    return value;
}

static void say(const char *text)
{
    for (; *text != '\0'; text++) {
        out8(SERIAL, (uint8_t)*text);
    }
}

static void say_number(uint64_t value)
{
    if (value >= 10) {
        say_number(value / 10);
    }
    out8(SERIAL, (uint8_t)('0' + value % 10));
}

static void expect(const char *what, bool refused)
{
    tries++;
    if (!refused) {
        wrong++;
        say("NOT REFUSED: ");
        say(what);
        say("\n");
    }
}

/* Run an instruction; true if it faulted. */
#define FAULTS(instruction, ...)                                                                                 \
    ({                                                                                                           \
        faulted = 0;                                                                                             \
        __asm__ volatile("movq %%rsp, fault_stack\n\tmovq $1f, resume\n\t" instruction "\n1:" : : __VA_ARGS__    \
                         : "memory", "cc", "rax");                                                               \
        faulted != 0;                                                                                            \
    })

static bool write_msr(uint32_t msr, uint64_t value)
{
    return FAULTS("movl %%edi, %%eax; wrmsr", "c"(msr), "D"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static bool read_msr(uint32_t msr)
{
    return FAULTS("rdmsr; xorl %%edx, %%edx", "c"(msr), "d"(0));
}

static bool svm_on;

/* VMRUN; true if it faulted. Afterwards there is a moment for the interrupt that may have ended it. */
static bool run(uint64_t at)
{
    faulted = 0;
    __asm__ volatile("movq %%rsp, fault_stack\n\tmovq $1f, resume\n\tpushq %%rbp; pushq %%rbx; clgi; sti; vmrun %%rax\n\t"
                     "popq %%rbx; popq %%rbp\n1:\tcli"
                     : "+a"(at)
                     :
                     : "memory", "cc", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
    if (svm_on) {
        __asm__ volatile("stgi; sti; nop; cli");
    }
    return faulted != 0;
}

static void set_gate(unsigned vector, const uint8_t *at)
{
    uint64_t a = (uint64_t)at;
    idt[vector] = (struct gate){(uint16_t)a, 0x08, 0x8e00, (uint16_t)(a >> 16), (uint32_t)(a >> 32), 0};
}

static volatile uint32_t *apic(uint32_t at)
{
    return (volatile uint32_t *)(uint64_t)(APIC + at);
}

static void try_registers(void)
{
    static const uint32_t unreadable[] = {0xc0010010, 0xc001001a, 0xc0010113, 0xc0010058, 0xc0011030, 0x9b, 0x250, 0x12345};
    for (unsigned i = 0; i < COUNT(unreadable); i++) {
        expect("reading an MSR", read_msr(unreadable[i]));
        expect("writing an MSR", write_msr(unreadable[i], 1));
    }
    expect("moving the APIC", write_msr(0x1b, 0xfed00900));
    expect("switching the APIC off", write_msr(0x1b, 0xfee00100));
    expect("x2APIC", write_msr(0x1b, 0xfee00d00));
    expect("a host save area beyond its memory", write_msr(0xc0010117, BEYOND));
    expect("an odd host save area", write_msr(0xc0010117, 0x1001));
    expect("unknown bits of EFER", write_msr(0xc0000080, 1ull << 40));
}

static void try_ports(void)
{
    static const uint16_t nobody[] = {0x2f8, 0x2fd, 0x60, 0x64, 0x92, 0xb2, 0xcf9, 0x20, 0xa1, 0x3d5, 0x510, 0x5658};
    for (unsigned i = 0; i < COUNT(nobody); i++) {
        out8(nobody[i], 0);
        expect("a port", in8(nobody[i]) == 0xff);
    }
    for (uint32_t slot = 1; slot < 32; slot++) {
        expect("a PCI function", pci(1u << 31 | slot << 11) == 0xffffffff);
    }
    expect("string input", FAULTS("pushq %%rdi; insb; popq %%rdi", "D"(halts), "d"(0x60)));
}

static void try_apic(void)
{
    *apic(0xd0) = 0xff000000; /* every logical id there is */
    expect("a logical id of its choice", *apic(0xd0) == 0);
    for (uint32_t id = 0; id < 16; id++) {
        uint32_t self = *apic(0x20) >> 24;
        if (id != self) {
            *apic(0x310) = id << 24;
            *apic(0x300) = 0x4500; /* INIT, SIPI, NMI, a vector: to cores that are not its own */
            *apic(0x300) = 0x4608;
            *apic(0x300) = 0x4400;
            *apic(0x300) = 0x40fe;
            tries += 4; /* that nothing came of it, the neighbour shows */
        }
    }
    *apic(0x350) = 0x00400; /* NMI by its own local vector table */
    expect("a local NMI", *apic(0x350) & 0x10000);
}

static void sound_vmcb(void)
{
    memset(&vmcb, 0, sizeof(vmcb));
    vmcb.control.intercept[ICEPT_MISC1] = ICEPT(EXIT_INTR) | ICEPT(EXIT_HLT) | ICEPT(EXIT_SHUTDOWN) | ICEPT(EXIT_IOIO) |
                                          ICEPT(EXIT_MSR);
    vmcb.control.intercept[ICEPT_MISC2] = ICEPT(EXIT_VMRUN);
    vmcb.control.iopm = (uint64_t)iopm;
    vmcb.control.msrpm = (uint64_t)msrpm;
    vmcb.control.asid = 1;
    vmcb.control.vintr = V_INTR_MASKING;
    vmcb.control.nested_control = 1;
    vmcb.control.nested_cr3 = (uint64_t)tables[0];
    struct segment data = {0, 0x93, 0xffff, 0};
    vmcb.save.es = vmcb.save.ss = vmcb.save.ds = vmcb.save.fs = vmcb.save.gs = data;
    vmcb.save.cs = (struct segment){0, 0x9b, 0xffff, 0};
    vmcb.save.efer = 1u << 12;
    vmcb.save.cr0 = 0x10;
    vmcb.save.rflags = 2;
    vmcb.save.rip = 0x1000;
    vmcb.save.dr6 = 0xffff0ff0;
    vmcb.save.dr7 = 0x400;
}

/* Nested tables that map every page of L2 to the page of halts. */
static void sound_tables(void)
{
    for (unsigned i = 0; i < 512; i++) {
        tables[0][i] = (uint64_t)tables[1] | 7;
        tables[1][i] = (uint64_t)tables[2] | 7;
        tables[2][i] = (uint64_t)tables[3] | 7;
        tables[3][i] = (uint64_t)halts | 7;
    }
    memset(halts, 0xf4, sizeof(halts));
    memset(iopm, 0xff, sizeof(iopm));
    memset(msrpm, 0xff, sizeof(msrpm));
}

static uint64_t run_sound(void)
{
    return run((uint64_t)&vmcb) ? 1 : vmcb.control.exit_code;
}

static void try_vmruns(void)
{
    expect("VMRUN while SVM is off", run((uint64_t)&vmcb));
    write_msr(0xc0000080, 0x1900);
    svm_on = true;
    write_msr(0xc0010117, (uint64_t)host_save);
    sound_vmcb();
    sound_tables();
    expect("(a sound VMRUN)", run_sound() == EXIT_HLT);
    expect("a VMCB beyond its memory", run(BEYOND));
    expect("a VMCB where its APIC is", run(APIC));
    expect("a VMCB where no address is", run(0xfffffffffffff000ull));
    expect("an odd VMCB", run((uint64_t)&vmcb + 8));
    expect("VMLOAD beyond its memory", FAULTS("movq %0, %%rax; vmload %%rax", "b"(BEYOND)));
    expect("VMSAVE beyond its memory", FAULTS("movq %0, %%rax; vmsave %%rax", "b"(BEYOND)));
    vmcb.control.msrpm = BEYOND;
    expect("a map of MSRs beyond its memory", run_sound() == EXIT_INVALID);
    sound_vmcb();
    vmcb.control.iopm = MEMORY - 8192;
    expect("a map of ports that ends beyond its memory", run_sound() == EXIT_INVALID);
    sound_vmcb();
    vmcb.control.asid = 0;
    expect("the host's ASID", run_sound() == EXIT_INVALID);
    sound_vmcb();
    vmcb.save.cr0 |= 1ull << 40;
    expect("a state that the processor refuses", run_sound() == EXIT_INVALID);
    expect("what L0 had in its registers then", vmcb.save.rip == 0x1000 && vmcb.save.rsp == 0 && vmcb.save.cr3 == 0);
    sound_vmcb();
    vmcb.save.efer |= 1u << 8;
    expect("long mode without PAE, from which QEMU's processor does not return", run_sound() == EXIT_INVALID);
    sound_vmcb();
    vmcb.control.intercept[ICEPT_MISC2] = 0;
    expect("a guest that may run guests", run_sound() == EXIT_INVALID);
    sound_vmcb();
}

/* GIF, whoever keeps it. A timer ends while it is clear, at first after a CLGI that exits and then after one that need
 * not: its interrupt waits for STGI. Then it ends a sleep. */
static void try_gif(void)
{
    *apic(0xf0) = 0x1ff;
    *apic(0x3e0) = 0xb;
    *apic(0x320) = 0x40;
    for (unsigned round = 0; round < 3; round++) {
        interrupts = 0;
        __asm__ volatile("clgi; sti");
        *apic(0x380) = 1000;
        for (unsigned i = 0; i < 100000 || *apic(0x390) != 0; i++) {
            __asm__ volatile("pause");
        }
        expect("an interrupt while GIF is clear", interrupts == 0);
        __asm__ volatile("stgi; nop; cli");
        expect("(the interrupt afterwards)", interrupts == 1);
        expect("(a sound VMRUN between)", run_sound() == EXIT_HLT);
        *apic(0x380) = 1000000;
        __asm__ volatile("sti; hlt; cli");
        expect("(the interrupt that ends a sleep)", interrupts == 2);
        expect("(and one more)", run_sound() == EXIT_HLT);
    }
    *apic(0x320) = 0x10000;
}

static void try_tables(void)
{
    vmcb.control.nested_cr3 = BEYOND;
    vmcb.control.asid = 2;
    expect("nested tables beyond its memory", run_sound() == EXIT_NPF);
    static const uint64_t leaves[] = {BEYOND, MEMORY, 0xfee00000, 0xfed80000, 0x100000000ull, 0xfffff000ull};
    for (unsigned i = 0; i < COUNT(leaves); i++) {
        sound_vmcb();
        vmcb.control.asid = 3 + i;
        tables[3][1] = leaves[i] | 7;
        expect("a nested leaf beyond its memory", run_sound() == EXIT_NPF);
    }
    tables[3][1] = (uint64_t)halts | 7;
    tables[2][0] = BEYOND | 0x87; /* a large one */
    sound_vmcb();
    vmcb.control.asid = 20;
    expect("a large nested leaf beyond its memory", run_sound() == EXIT_NPF);
    sound_tables();
    /* The map of every port and MSR open: L2 gets what L1 has, and no more. */
    sound_vmcb();
    vmcb.control.asid = 21;
    memset(iopm, 0, sizeof(iopm));
    memset(msrpm, 0, sizeof(msrpm));
    static const uint8_t code[] = {0xba, 0xf8, 0x02, 0xec, 0xf4}; /* mov $0x2f8, %dx; in %dx, %al; hlt */
    memcpy(halts, code, sizeof(code));
    expect("a port, from L2", run_sound() == EXIT_HLT && (vmcb.save.rax & 0xff) == 0xff);
    sound_tables();
}

static uint64_t state = 88172645463325252ull;

static uint64_t random(void) /* xorshift; the same each time */
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* A VMCB with some of its bytes changed. What makes an L2 that never comes back is put right again. */
static void mutate(void)
{
    sound_vmcb();
    uint8_t *bytes = (uint8_t *)&vmcb;
    for (unsigned i = 0; i < 1 + random() % 4; i++) {
        uint64_t r = random();
        unsigned at = r & 1 ? (r >> 8) % 0xd0 : 0x400 + (r >> 8) % 0x280;
        bytes[at] = (uint8_t)(r >> 32);
    }
    vmcb.control.intercept[ICEPT_MISC1] |= ICEPT(EXIT_INTR) | ICEPT(EXIT_HLT) | ICEPT(EXIT_SHUTDOWN);
    vmcb.control.vintr |= V_INTR_MASKING;
    if (!(vmcb.control.nested_control & 1)) { /* its memory is ours: it must not run over this program */
        vmcb.save.cs.base = (uint64_t)halts - 0x1000;
        vmcb.save.rip = 0x1000;
    }
}

static void try_mutations(void)
{
    unsigned ended = 0;
    *apic(0xf0) = 0x1ff;
    *apic(0x3e0) = 0xb;
    *apic(0x320) = 0x20000 | 0x40; /* now and then, so that none runs for ever */
    *apic(0x380) = 5000000;
    for (unsigned i = 0; i < MUTATIONS; i++) {
        mutate();
        run((uint64_t)&vmcb);
        ended++;
    }
    tries += ended;
    *apic(0x320) = 0x10000;
    sound_vmcb();
    vmcb.control.tlb_control = 1;
    sound_tables();
    expect("(a sound VMRUN afterwards)", run_sound() == EXIT_HLT || vmcb.control.exit_code == EXIT_INTR);
}

/* More of one L2's addresses than there are frames for shadow tables. */
static void try_exhaustion(void)
{
    for (uint64_t i = 0; i < PAGES; i++) {
        sound_vmcb();
        vmcb.save.cs.base = (i & 2047) << 21; /* all of 4 GiB */
        uint64_t code = run_sound();
        expect("(one more page of an L2)", code == EXIT_HLT || code == EXIT_INTR);
    }
}

/* What VMRUN does not switch: nothing of an earlier launch may be there. */
static void look_for_remains(void)
{
    uint64_t vector, debug;
    __asm__ volatile("movq %%xmm7, %0; mov %%db0, %1" : "=r"(vector), "=r"(debug));
    expect("what an earlier launch left in registers", vector == 0 && debug == 0);
    __asm__ volatile("movq %0, %%xmm7; mov %0, %%db0" : : "r"(0x1234567887654321ull));
    say(vector == 0 && debug == 0 ? "begins with clean registers\n" : "begins with REMAINS\n");
}

void guest_main(void)
{
    for (unsigned i = 0; i < 32; i++) {
        set_gate(i, on_fault);
    }
    for (unsigned i = 32; i < 256; i++) {
        set_gate(i, on_interrupt);
    }
    look_for_remains();
    try_registers();
    try_ports();
    try_apic();
    say("registers, ports and APIC are done\n");
    try_vmruns();
    try_gif();
    say("GIF is done\n");
    try_tables();
    say("VMRUNs are done\n");
    try_mutations();
    say("mutations are done\n");
    try_exhaustion();
    expect("an address above what is mapped", FAULTS("movq (%0), %%rax", "r"(0x100000000ull)));
    say_number(tries);
    say(" tries, ");
    say_number(wrong);
    say(" of them not refused\n");
    __asm__ volatile("lock incl (%0)" : : "r"(MEMORY + 0x1000)); /* memory that is not its own, and no plain MOV */
    say("NOT PARKED\n");
}
