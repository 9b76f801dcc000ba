/* The measured launch: SHA-256, by libsodium, of everything that is loaded into a partition. Monitor core only. */
#ifndef MH_MEASURE_H
#define MH_MEASURE_H

#include "partition/partition.h"

/* Set the partition's digest: docs/spec/microhypervisor-channel.md, 3. */
void measure(struct partition *partition, const char *cmdline);

#endif
