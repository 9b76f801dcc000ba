/* The world switch: one VMRUN (APM 2, 15.5). GIF is clear before and after.
 *
 * void run_guest(uint64_t vmcb, uint64_t registers[16], bool host_if)
 *
 * The processor switches RAX, RSP, RIP, RFLAGS and the control registers; VMLOAD and VMSAVE FS, GS, TR, LDTR and the
 * system call registers (15.5.2), which L0 does without; the others are switched here. `registers` is in the order of
 * instruction encoding (rax rcx rdx rbx rsp rbp rsi rdi r8..r15); rax and rsp are the VMCB's and left alone.
 * host_if: RFLAGS.IF of L0 at VMRUN, which decides about interrupts while V_INTR_MASKING is set (15.21.1). */

        .section .text
        .global run_guest
run_guest:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rsi
        movq    %rdi, %rax
        testl   %edx, %edx
        movq    8(%rsi), %rcx
        movq    16(%rsi), %rdx
        movq    24(%rsi), %rbx
        movq    40(%rsi), %rbp
        movq    56(%rsi), %rdi
        movq    64(%rsi), %r8
        movq    72(%rsi), %r9
        movq    80(%rsi), %r10
        movq    88(%rsi), %r11
        movq    96(%rsi), %r12
        movq    104(%rsi), %r13
        movq    112(%rsi), %r14
        movq    120(%rsi), %r15
        movq    48(%rsi), %rsi
        vmload  %rax
        jz      1f
        sti                             /* GIF is clear: nothing comes before the guest runs; VMEXIT gives it back */
        nop                             /* outside the shadow of sti */
1:      vmrun   %rax
        cli
        vmsave  %rax
        pushq   %rsi
        movq    8(%rsp), %rsi
        movq    %rcx, 8(%rsi)
        movq    %rdx, 16(%rsi)
        movq    %rbx, 24(%rsi)
        movq    %rbp, 40(%rsi)
        popq    48(%rsi)
        movq    %rdi, 56(%rsi)
        movq    %r8, 64(%rsi)
        movq    %r9, 72(%rsi)
        movq    %r10, 80(%rsi)
        movq    %r11, 88(%rsi)
        movq    %r12, 96(%rsi)
        movq    %r13, 104(%rsi)
        movq    %r14, 112(%rsi)
        movq    %r15, 120(%rsi)
        popq    %rsi
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret

        .section .note.GNU-stack, "", @progbits
