/* A user of L1's KVM: an L2 of a few instructions in real mode, which adds numbers up in memory and says the sum. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MEMORY 0x400000ul
#define CODE 0x1000

static const unsigned char code[] = {
    0x31, 0xc0,             /* xor %ax, %ax */
    0xb9, 0x00, 0x10,       /* mov $4096, %cx */
    0x01, 0xc8,             /* again: add %cx, %ax */
    0xa3, 0x00, 0x20,       /* mov %ax, 0x2000 */
    0xe2, 0xf9,             /* loop again */
    0xa1, 0x00, 0x20,       /* mov 0x2000, %ax */
    0xba, 0x50, 0x00, 0xef, /* out %ax, $0x50 */
    0xf4,                   /* hlt */
};

static int fail(const char *what)
{
    perror(what);
    return 1;
}

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
    char *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY, .userspace_addr = (unsigned long)memory};
    if (kvm < 0 || vm < 0 || memory == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
        return fail("making a virtual machine");
    }
    memcpy(memory + CODE, code, sizeof(code));
    int cpu = ioctl(vm, KVM_CREATE_VCPU, 0), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    struct kvm_sregs segments;
    struct kvm_regs registers = {.rip = CODE, .rflags = 2, .rsp = 0x8000};
    if (cpu < 0 || run == MAP_FAILED || ioctl(cpu, KVM_GET_SREGS, &segments) != 0) {
        return fail("making a processor");
    }
    segments.cs.base = segments.cs.selector = 0;
    ioctl(cpu, KVM_SET_SREGS, &segments);
    ioctl(cpu, KVM_SET_REGS, &registers);
    while (ioctl(cpu, KVM_RUN, 0) == 0) {
        if (run->exit_reason == KVM_EXIT_IO) {
            printf("L2 says %u\n", *(unsigned short *)((char *)run + run->io.data_offset));
        } else if (run->exit_reason == KVM_EXIT_HLT) {
            printf("L2 halted\n");
            return 0;
        } else {
            printf("L2 left for reason %u\n", run->exit_reason);
            return 1;
        }
    }
    return fail("running it");
}
