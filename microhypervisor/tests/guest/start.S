/* A kernel of the tests' own, as Linux' boot protocol wants one: a setup header, then 32-bit code at 16 MiB, which goes
 * on to long mode with the first 4 GiB mapped one to one, and calls guest_main. */
        .section .setup, "a"
        .org    0x1f1
        .byte   1                       /* one sector of setup behind the first */
        .org    0x1fe
        .word   0xaa55
        .org    0x201
        .byte   0x66
        .ascii  "HdrS"
        .word   0x20f
        .org    0x211
        .byte   1
        .org    0x258
        .quad   0x1000000
        .long   0x800000                /* what it uses from there: .bss, too */
        .org    0x400

        .section .start, "ax"
        .code32
        .global start
start:  cli
        movl    $pml4, %edi
        movl    $pdpt + 3, (%edi)
        movl    $0x00000083, pdpt
        movl    $0x40000083, pdpt + 8
        movl    $0x80000083, pdpt + 16
        movl    $0xc0000083, pdpt + 24
        movl    $0x620, %eax            /* PAE, OSFXSR */
        movl    %eax, %cr4
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x900, %eax            /* LME, NXE */
        wrmsr
        movl    $0x80000033, %eax
        movl    %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
        .code64
1:      movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $stack_end, %esp
        lidt    idt_pointer
        call    guest_main
2:      hlt
        jmp     2b

/* Faults: the instruction that may fault says beforehand where to go on. Interrupts: they are only noticed. */
        .global on_fault, on_interrupt
on_fault:
        movl    $1, faulted
        movq    resume, %rax
        movq    fault_stack, %rsp
        jmp     *%rax
on_interrupt:
        pushq   %rax
        movl    $0xfee000b0, %eax
        movl    $0, (%rax)
        incl    interrupts
        popq    %rax
        iretq

        .section .data
        .align  8
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
        .section .bss
        .align  4096
pml4:   .skip   4096
pdpt:   .skip   4096
        .skip   32768
stack_end:
        .section .note.GNU-stack, "", @progbits
