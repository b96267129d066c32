/* SPDX-License-Identifier: ISC */
/*
 * From the PVH entry of QEMU and Xen (32 bits, no paging; EBX: start info) to C in
 * long mode, and the stubs of exceptions.
 *
 * Memory is mapped one to one: the first 2 MiB in pages of 4 KiB, the rest of the first
 * GiB in pages of 2 MiB, and so the last 32 MiB below 4 GiB, as the platform wants it
 * (devices). The tables are made here, for they would be a third of the image. Address 0
 * is not mapped, nor is the page below the stack; code and constants cannot be written.
 */
#define PRESENT 1
#define WRITE 2
#define LARGE 0x80

#define CODE 0x08
#define DATA 0x10
#define TSS 0x18

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18			/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.section .text.start, "ax"
	.code32
	.globl start
start:
	cli
	rdtsc				/* the clock's zero */
	mov %eax, entry_tsc
	mov %edx, entry_tsc + 4
	mov $page_table, %edi		/* in pages of 4 KiB: the first 2 MiB */
	mov $PRESENT + WRITE, %eax
small:
	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	cmp $0x200000, %eax
	jb small
	mov $directory_low + 8, %edi	/* in large ones: the rest of the first GiB */
	or $LARGE, %eax
large:
	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	cmp $0x40000000, %eax
	jb large
	mov $directory_high + 496 * 8, %edi
	mov $devices, %eax		/* and the last 32 MiB below 4 GiB */
device:
	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	jnc device
	movl $directory_low + PRESENT + WRITE, page_pointers
	movl $directory_high + PRESENT + WRITE, page_pointers + 3 * 8
	movl $page_pointers + PRESENT + WRITE, page_map
	movl $page_table + PRESENT + WRITE, directory_low

	mov $image_start, %eax		/* image_start .. image_data: read only */
protect:
	mov %eax, %ecx
	shr $9, %ecx
	andb $~WRITE, page_table(%ecx)
	add $4096, %eax
	cmp $image_data, %eax
	jb protect
	mov $stack_guard, %ecx
	shr $9, %ecx
	movb $0, page_table(%ecx)
	movb $0, page_table		/* address 0 */

	mov $page_map, %eax
	mov %eax, %cr3
	mov $0x20, %eax			/* PAE */
	mov %eax, %cr4
	mov $0xc0000080, %ecx		/* EFER: LME */
	rdmsr
	or $0x100, %eax
	wrmsr
	mov $0x80010033, %eax		/* PG WP NE ET MP PE */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $CODE, $long_mode

	.code64
long_mode:
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $stack_top, %esp
	mov %ebx, %edi
	xor %ebp, %ebp
	call platform_start
	ud2				/* it never returns */

/* Exceptions: an array of stubs of 16 bytes; those without an error code push 0. */
	.balign 16
	.globl exception_stubs
exception_stubs:
	.set vector, 0
	.rept 32
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp exception
	.set vector, vector + 1
	.endr
exception:
	mov %rsp, %rdi			/* struct trap_frame */
	cld
	and $-16, %rsp
	call trap
	ud2

	.section .data
	.balign 8
	.globl gdt_tss
gdt:
	.quad 0
	.quad 0x00af9a000000ffff	/* CODE */
	.quad 0x00cf92000000ffff	/* DATA */
gdt_tss:
	.quad 0, 0			/* TSS: traps.c */
gdt_pointer:
	.word . - gdt - 1
	.long gdt
	.globl entry_tsc
	.balign 8
entry_tsc:
	.quad 0

	.section .bss
	.balign 4096
page_map:
	.skip 4096
page_pointers:
	.skip 4096
directory_low:
	.skip 4096
directory_high:
	.skip 4096
page_table:
	.skip 4096
stack_guard:
	.skip 4096
	.skip 16384
stack_top:
	.globl trap_stack_top
	.skip 4096			/* exceptions have their own: the other may have run over */
trap_stack_top:
	.section .note.GNU-stack, "", @progbits
