/* From multiboot (32-bit protected mode, paging off) to boot_main in long mode, and the same for the other cores from
 * real mode. [APM] volume 2, 14.6 "Enabling and activating long mode". */

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3 /* modules on page boundaries, a map of memory */

#define CR0_BITS 0x80010033 /* PG WP NE ET MP PE */
#define CR4_BITS 0x00000620 /* PAE OSFXSR OSXMMEXCPT */
#define EFER 0xc0000080
#define EFER_BITS 0x00001900 /* SVME NXE LME: SVME lets VMRUN be executed (APM 2, 15.4) */

        .section .multiboot, "a"
        .align 4
        .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .section .text
        .code32
        .global start
start:
        cli
        cld
        movl    %ebx, %ebp              /* multiboot's information; .bss is zeroed by the loader, which need give no stack */
        movl    $core_boot_stack_end, %esp
        movl    $pml4, %edi
        movl    $pdpt + 3, (%edi)
        /* One to one, 512 GiB in pages of 1 GiB, which every processor with nested paging has. What is memory and what
         * is devices is left to the MTRRs, as the firmware set them. */
        movl    $pdpt, %edi
        xorl    %eax, %eax              /* low half of the address */
        xorl    %edx, %edx              /* high half */
1:      movl    %eax, %ecx
        orl     $0x83, %ecx             /* present, writable, large */
        movl    %ecx, (%edi)
        movl    %edx, 4(%edi)
        addl    $0x40000000, %eax
        adcl    $0, %edx
        addl    $8, %edi
        cmpl    $pdpt + 4096, %edi
        jb      1b

        call    long_mode
        ljmp    $0x08, $2f

        .code64
2:      movl    $monitor_stack_end, %esp
        call    load_segments
        movl    %ebp, %edi
        call    boot_main
3:      hlt
        jmp     3b

        .code32
long_mode:
        movl    $CR4_BITS, %eax
        movl    %eax, %cr4
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    $EFER, %ecx
        rdmsr
        orl     $EFER_BITS, %eax
        wrmsr
        lgdt    gdt_pointer
        movl    $CR0_BITS, %eax
        movl    %eax, %cr0
        ret

        .code64
load_segments:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        lidt    idt_pointer
        ret

/* The other cores begin here, in real mode, once this is copied below 1 MiB (APM 2, 16.7.2: a SIPI's vector). */
        .global trampoline, trampoline_end, trampoline_stack
        .equ    HERE, 0x8000
        .code16
trampoline:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   HERE + trampoline_gdt_pointer - trampoline
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $core_start32
trampoline_gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
trampoline_end:

        .code32
core_start32:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %ss
        movl    $core_boot_stack_end, %esp
        call    long_mode
        ljmp    $0x08, $4f
        .code64
4:      call    load_segments
        movq    trampoline_stack, %rsp  /* cores come up one by one, each with the stack that was put here */
        call    core_begin
5:      hlt
        jmp     5b

        .section .data
        .align 8
        .global gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff      /* 0x08 code, 64 bits */
        .quad   0x00cf93000000ffff      /* 0x10 data */
        .quad   0x00cf9b000000ffff      /* 0x18 code, 32 bits, on the way up */
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt
        .global trampoline_stack
trampoline_stack:
        .quad   0

        .section .bss
        .align 4096
pml4:   .skip   4096
pdpt:   .skip   4096
        .skip   65536                   /* libsodium's functions run on it, too */
monitor_stack_end:
        .skip   256
core_boot_stack_end:

        .section .note.GNU-stack, "", @progbits
