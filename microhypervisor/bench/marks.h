/* What a workload tells the meter: a NOP whose displacement is MARK_MAGIC, then one of these in its lowest byte. */
#ifndef MH_BENCH_MARKS_H
#define MH_BENCH_MARKS_H

#define MARK_MAGIC 0x5ca1abu

enum mark {
    MARK_L1_CPU = 1,
    MARK_L1_MEMORY,
    MARK_L2_BOOT,
    MARK_L2_CPU,
    MARK_L2_MEMORY,
    MARK_L2_DISK,
    MARK_L2_NETWORK,
    MARK_END = 0x80, /* with one of the others */
};

#endif
