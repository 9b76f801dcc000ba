/* Leaves this kernel for another: kexec KERNEL INITRD CMDLINE. Does not come back, unless it fails. */
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    int kernel = count == 4 ? open(arguments[1], O_RDONLY) : -1, initrd = count == 4 ? open(arguments[2], O_RDONLY) : -1;
    if (kernel < 0 || initrd < 0) {
        fprintf(stderr, "kexec: there is no kernel, or no initrd\n");
        return 2;
    }
    if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(arguments[3]) + 1, arguments[3], 0ul) != 0) {
        perror("kexec: the kernel is not taken");
        return 1;
    }
    reboot(LINUX_REBOOT_CMD_KEXEC);
    perror("kexec: it does not begin");
    return 1;
}
