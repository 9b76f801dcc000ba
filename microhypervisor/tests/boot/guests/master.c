/* Lets a PCI function start transfers: sets bit 2 of the command register in the file CONFIG. */
#include <fcntl.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    unsigned short command = 0;
    int file = count == 2 ? open(arguments[1], O_RDWR) : -1;
    if (file < 0 || pread(file, &command, 2, 4) != 2) {
        return 1;
    }
    command |= 4;
    return pwrite(file, &command, 2, 4) == 2 ? 0 : 1;
}
