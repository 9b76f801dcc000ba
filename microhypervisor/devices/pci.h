/* PCI configuration through a filter: a partition sees its own functions and a host bridge that is not there, by
 * configuration mechanism 1 alone (PCI 3.0, 3.2.2.3.2). Base addresses stay where the firmware put them. */
#ifndef MH_PCI_H
#define MH_PCI_H

#include "devices/io.h"

uint32_t pci_read(uint16_t address, unsigned at);
void pci_write(uint16_t address, unsigned at, uint32_t value);

/* At machine start: no function may start a transfer until it is a partition's. */
void pci_silence(void);
/* Find out what a device has; false if it is not there or cannot be given away. */
bool pci_adopt(struct pci_device *device, uint16_t address);
/* At each start of a partition: nothing that the last one set up goes on. */
void pci_reset(struct pci_device *device);
void pci_access(struct core *core, struct io *io);

#endif
