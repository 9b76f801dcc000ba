#include "check.h"
#include "cpu/guest.h"
#include "cpu/x86.h"
#include "nested/gif.h"

#define FEATURES (1u << 15 | 1u << 16)

static struct vmcb vmcb;
static struct core core;
static uint64_t priority; /* CR8 */
static uint8_t instruction;

uint64_t cr8_read(void)
{
    return priority;
}

void cr8_write(uint64_t value)
{
    priority = value;
}

unsigned guest_fetch(const struct core *from, uint8_t *bytes, unsigned length)
{
    CHECK(from == &core && length == 1);
    *bytes = instruction;
    return 1;
}

static bool exits(uint64_t code)
{
    return intercepts(&vmcb.control, code);
}

static bool is_at(enum gate gate)
{
    bool masked = vmcb.control.vintr & V_INTR_MASKING;
    return core.gate == gate && masked == (gate != GATE_OPEN) && exits(EXIT_INTR) == (gate == GATE_WATCHED);
}

static void make(uint32_t features)
{
    memset(&core, 0, sizeof(core));
    memset(&vmcb, 0, sizeof(vmcb));
    core.vmcb = &vmcb;
    priority = 0;
    gif_reset(&core);
    core.svm_features = features;
    core.svm_enabled = true;
    gif_follow_svme(&core);
}

/* As KVM does: CLGI, VMRUN, #VMEXIT, STGI; no exit for CLGI and STGI until an interrupt comes. */
static void test_without_exits(void)
{
    make(FEATURES);
    CHECK(is_at(GATE_OPEN) && gif_get(&core) && exits(EXIT_CLGI) && !exits(EXIT_STGI));
    gif_set(&core, false);
    CHECK(is_at(GATE_WATCHED) && !gif_get(&core) && !exits(EXIT_CLGI) && !exits(EXIT_STGI));
    vmcb.control.vintr |= V_GIF; /* STGI, by the processor itself */
    CHECK(gif_get(&core));
    gif_interrupt(&core);
    CHECK(is_at(GATE_OPEN) && gif_get(&core));
}

static void test_an_interrupt_waits_for_stgi(void)
{
    make(FEATURES);
    gif_set(&core, false);
    gif_interrupt(&core);
    CHECK(is_at(GATE_SHUT) && !gif_get(&core) && exits(EXIT_STGI));
    gif_set(&core, true);
    CHECK(is_at(GATE_OPEN) && gif_get(&core));
}

static void test_the_priority_is_kept(void)
{
    make(FEATURES);
    priority = 5;
    gif_set(&core, false);
    CHECK((vmcb.control.vintr & V_TPR) == 5);
    vmcb.control.vintr = (vmcb.control.vintr & ~V_TPR) | 9; /* L1 writes CR8 */
    gif_set(&core, true);
    CHECK(priority == 9 && (vmcb.control.vintr & V_TPR) == 0);
}

static void test_a_sleep_that_the_interrupt_ends(void)
{
    make(FEATURES);
    gif_set(&core, false);
    vmcb.control.vintr |= V_GIF;
    vmcb.control.interrupt_state = 1;
    vmcb.save.rip = 100;
    instruction = 0xf4;
    gif_interrupt(&core);
    CHECK(is_at(GATE_OPEN) && vmcb.save.rip == 101 && vmcb.control.interrupt_state == 0);
    gif_set(&core, false);
    vmcb.control.vintr |= V_GIF;
    vmcb.control.interrupt_state = 1;
    instruction = 0x90;
    gif_interrupt(&core);
    CHECK(vmcb.save.rip == 101 && vmcb.control.interrupt_state == 1);
}

/* A processor that does not keep the flag, or an L1 that has not switched SVM on: every one exits. */
static void test_without_the_processor(void)
{
    for (unsigned on = 0; on < 2; on++) {
        make(on ? 0 : FEATURES);
        core.svm_enabled = on;
        gif_follow_svme(&core);
        CHECK(exits(EXIT_VMLOAD) && exits(EXIT_VMSAVE) && vmcb.control.lbr_control == 0);
        CHECK(!(vmcb.control.vintr & V_GIF_ENABLE));
        for (unsigned set = 0; set < 2; set++) {
            gif_set(&core, set);
            CHECK(exits(EXIT_CLGI) && exits(EXIT_STGI) && gif_get(&core) == (set == 1));
        }
    }
    make(FEATURES);
    CHECK(!exits(EXIT_VMLOAD) && !exits(EXIT_VMSAVE) && vmcb.control.lbr_control == VIRTUALIZE_LOAD_SAVE);
}

void test_gif(void)
{
    test_without_exits();
    test_an_interrupt_waits_for_stgi();
    test_the_priority_is_kept();
    test_a_sleep_that_the_interrupt_ends();
    test_without_the_processor();
}
