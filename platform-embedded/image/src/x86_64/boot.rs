//! From QEMU's PVH entry to Rust: a note that names the entry, 32-bit code that switches to 64-bit
//! mode with 4 GiB mapped one to one, and the vectors of interrupts.

use core::arch::global_asm;

use crate::memory::STACK;

/// What the stack is filled with before it is used: what is still there was never reached.
pub const PAINT: u32 = 0x5ac1_d0d0;

// The entry is in 32-bit protected mode without paging, interrupts off, and a flat address space.
// SSE is switched on because the compiled core library uses it.
global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

    .section .text.boot, "ax"
    .code32
    .globl pvh_start, irq_first, irq_second
pvh_start:
    cli
    cld
    mov $stack_top, %esp
    mov $stack_bottom, %edi
    mov ${paint}, %eax
    mov $({stack} / 4), %ecx
    rep stosl
    mov $page_directories + 3, %eax
    mov $page_pointers, %edi
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $0x83, %eax
    mov $page_directories, %edi
    mov $2048, %ecx
2:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 2b
    movl $page_pointers + 3, page_root
    mov $page_root, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $0xfffffff3, %eax
    or $0x80000002, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_start

    .code64
long_start:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    xor %eax, %eax
    mov %ax, %fs
    mov %ax, %gs
    mov $stack_top, %rsp
    xor %ebp, %ebp
    call {main}
    ud2

    // An interrupt of the two controllers: all of them only end a sleep.
irq_first:
    push %rax
    mov $0x20, %al
    out %al, $0x20
    pop %rax
    iretq
irq_second:
    push %rax
    mov $0x20, %al
    out %al, $0xa0
    out %al, $0x20
    pop %rax
    iretq


    // An exception: its vector on the stack, above what the processor put there.
    .align 16
    .globl exceptions
exceptions:
    .set vector, 0
    .rept 32
    .align 16
    pushq $vector
    jmp exception
    .set vector, vector + 1
    .endr
exception:
    mov %rsp, %rdi
    and $-16, %rsp
    cld
    call {exception}
    ud2

    .section .rodata.boot, "a"
    .align 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt

    .section .bss.boot, "aw", @nobits
    .align 4096
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 16384
    .globl stack_bottom, stack_top
stack_bottom: .skip {stack}
stack_top:
"#,
    paint = const PAINT,
    stack = const STACK,
    main = sym super::enter,
    exception = sym super::exception,
    options(att_syntax)
);
