/* L0's own interrupts: 256 stubs that push a vector and meet in `common`. GIF is clear on cores that run partitions, so
 * there only NMIs arrive, and only while the core waits (wait_for_order). No IST, no TSS: VMLOAD leaves TR the guest's. */

        .section .text
        .align  16
        .global trap_stubs
trap_stubs:
        vector = 0
        .rept   256
        .align  16
        .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
        .else
        pushq   $0                      /* no error code of the processor's (APM 2, 8.2) */
        .endif
        pushq   $vector
        jmp     common
        vector = vector + 1
        .endr

common: pushq   %rax
        pushq   %rcx
        pushq   %rdx
        pushq   %rbx
        pushq   %rbp
        pushq   %rsi
        pushq   %rdi
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        movq    %rsp, %rdi
        cld
        movq    %rsp, %rbp
        andq    $-16, %rsp
        call    trap
        movq    %rbp, %rsp
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rdi
        popq    %rsi
        popq    %rbp
        popq    %rbx
        popq    %rdx
        popq    %rcx
        popq    %rax
        addq    $16, %rsp
        iretq

/* Sleep until an NMI. It may come between stgi and hlt: trap() then goes on at wait_end, so none is slept through. */
        .global wait_for_order, wait_begin, wait_end
wait_for_order:
wait_begin:
        stgi
        hlt
wait_end:
        clgi
        ret

/* Let a pending NMI through: after #VMEXIT(NMI) it is still there (APM 2, 15.13.2). */
        .global take_nmi
take_nmi:
        stgi
        nop
        clgi
        ret

        .section .note.GNU-stack, "", @progbits
