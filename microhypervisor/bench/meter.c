/* A plugin for QEMU's emulator (docs/devel/tcg-plugins, API version 1, which Debian ships no header for) that counts what
 * `supercloud bench microhypervisor` compares: instructions of all layers, L0's own among them, and VMRUNs. At each mark
 * of a workload it writes a line: the mark's number, the counts, and the host's clock.
 *
 * Arguments: out=FILE, and begin=, end=: where L0's code is, physical, if it has any that is to be told apart. Meant for
 * emulation in one thread (-accel tcg,thread=single), so nothing here is locked. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "marks.h"

#define EXPORT __attribute__((visibility("default")))
#define SITES 2 /* places of VMRUN: the outermost hypervisor's, which runs first, and that of the one in it */

struct tb;
struct insn;
enum inline_op { ADD_U64 = 0 };
enum registers { NO_REGISTERS = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t id, struct tb *));
size_t qemu_plugin_tb_n_insns(const struct tb *);
struct insn *qemu_plugin_tb_get_insn(const struct tb *, size_t);
const void *qemu_plugin_insn_data(const struct insn *);
size_t qemu_plugin_insn_size(const struct insn *);
uint64_t qemu_plugin_insn_vaddr(const struct insn *);
void *qemu_plugin_insn_haddr(const struct insn *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *, enum inline_op, void *count, uint64_t by);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *, void (*executed)(unsigned cpu, void *), enum registers, void *);

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(uint64_t id, const void *machine, int count, char **arguments);

static FILE *out;
static uint64_t instructions, own, entries[SITES];
static const char *sites[SITES];
static uint64_t begin, end;
static const char *memory; /* where the machine's memory begins in this process: known once L0's first code is met */

static void marked(unsigned cpu, void *number)
{
    (void)cpu;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    fprintf(out, "%u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", (unsigned)(uintptr_t)number,
            instructions, own, entries[0], entries[1], (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    fflush(out);
}

/* VMRUN is about to be executed; also where the hypervisor below intercepts it. */
static void entering(unsigned cpu, void *at)
{
    (void)cpu;
    for (unsigned i = 0; i < SITES; i++) {
        sites[i] = sites[i] == NULL ? at : sites[i];
        if (sites[i] == at) {
            entries[i]++;
            return;
        }
    }
    fprintf(stderr, "meter: VMRUN at a third place\n");
    abort();
}

static bool is_own(const struct insn *insn)
{
    const char *host = qemu_plugin_insn_haddr(insn);
    uint64_t address = qemu_plugin_insn_vaddr(insn);
    if (memory == NULL && address >= begin && address < end) { /* L0's addresses are physical ones */
        memory = host - address;
    }
    return memory != NULL && host >= memory + begin && host < memory + end;
}

static void translate(struct insn *insn)
{
    static const unsigned char vmrun[] = {0x0f, 0x01, 0xd8}, mark[] = {0x0f, 0x1f, 0x80};
    const unsigned char *bytes = qemu_plugin_insn_data(insn);
    size_t size = qemu_plugin_insn_size(insn);
    qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &instructions, 1);
    if (is_own(insn)) {
        qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &own, 1);
    }
    if (size == sizeof(vmrun) && memcmp(bytes, vmrun, sizeof(vmrun)) == 0) {
        qemu_plugin_register_vcpu_insn_exec_cb(insn, entering, NO_REGISTERS, qemu_plugin_insn_haddr(insn));
    }
    if (size == sizeof(mark) + 4 && memcmp(bytes, mark, sizeof(mark)) == 0) {
        uint32_t number;
        memcpy(&number, bytes + sizeof(mark), sizeof(number));
        if (number >> 8 == MARK_MAGIC) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, NO_REGISTERS, (void *)(uintptr_t)(number & 0xff));
        }
    }
}

static void translated(uint64_t id, struct tb *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        translate(qemu_plugin_tb_get_insn(block, i));
    }
}

int qemu_plugin_install(uint64_t id, const void *machine, int count, char **arguments)
{
    (void)machine;
    for (int i = 0; i < count; i++) {
        const char *value = strchr(arguments[i], '=');
        if (value == NULL) {
            return -1;
        } else if (strncmp(arguments[i], "out=", 4) == 0) {
            out = fopen(value + 1, "w");
        } else if (strncmp(arguments[i], "begin=", 6) == 0) {
            begin = strtoull(value + 1, NULL, 0);
        } else if (strncmp(arguments[i], "end=", 4) == 0) {
            end = strtoull(value + 1, NULL, 0);
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return out == NULL ? -1 : 0;
}
