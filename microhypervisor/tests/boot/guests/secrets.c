/* Plants two secrets: one in L1's memory, one that an L2 makes in its own. secrets HEX HEX: each xor 0x5a, so that neither is
 * anywhere else. Says in which pages of the partition they are, and stays. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY 0x10000ul
#define CODE 0x1000
#define SECRET 0x2000
#define LENGTH 64

static const unsigned char code[] = {
    0xbe, 0x00, 0x20, /* mov $0x2000, %si */
    0xb9, 0x40, 0x00, /* mov $64, %cx */
    0x80, 0x34, 0x5a, /* again: xorb $0x5a, (%si) */
    0x46,             /* inc %si */
    0xe2, 0xfa,       /* loop again */
    0xf4,             /* hlt */
};

static void unhex(const char *text, volatile unsigned char *at)
{
    for (unsigned i = 0, byte; i < LENGTH && sscanf(text + 2 * i, "%2x", &byte) == 1; i++) {
        at[i] = (unsigned char)byte;
    }
}

static unsigned long page_of(volatile const void *at)
{
    uint64_t entry = 0;
    int map = open("/proc/self/pagemap", O_RDONLY);
    if (pread(map, &entry, 8, (off_t)((uintptr_t)at / 4096 * 8)) != 8) {
        exit(3);
    }
    close(map);
    return entry & ((1ull << 55) - 1);
}

static int run_l2(unsigned char *memory)
{
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY, .userspace_addr = (unsigned long)memory};
    if (kvm < 0 || vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
        return 1;
    }
    int cpu = ioctl(vm, KVM_CREATE_VCPU, 0), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    struct kvm_sregs segments;
    struct kvm_regs registers = {.rip = CODE, .rflags = 2, .rsp = 0x8000};
    if (cpu < 0 || run == MAP_FAILED || ioctl(cpu, KVM_GET_SREGS, &segments) != 0) {
        return 1;
    }
    segments.cs.base = segments.cs.selector = 0;
    ioctl(cpu, KVM_SET_SREGS, &segments);
    ioctl(cpu, KVM_SET_REGS, &registers);
    return ioctl(cpu, KVM_RUN, 0) != 0 || run->exit_reason != KVM_EXIT_HLT;
}

int main(int count, char **arguments)
{
    int flags = MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE;
    unsigned char *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, -1, 0);
    unsigned char *l2 = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | flags, -1, 0);
    if (count != 3 || own == MAP_FAILED || l2 == MAP_FAILED) {
        return 2;
    }
    unhex(arguments[1], own);
    for (unsigned i = 0; i < LENGTH; i++) {
        own[i] ^= 0x5a;
    }
    unhex(arguments[2], l2 + SECRET);
    memcpy(l2 + CODE, code, sizeof(code));
    if (run_l2(l2) != 0) {
        perror("running L2");
        return 1;
    }
    printf("secrets are in pages %lu and %lu\n", page_of(own), page_of(l2 + SECRET));
    fflush(stdout);
    for (;;) {
        pause();
    }
}
