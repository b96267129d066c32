/* SPDX-License-Identifier: ISC */
/* What start.S leaves to the board: where its devices are mapped, and its interrupts. */
#define PRESENT 1
#define WRITE 2
#define UNCACHED 0x18
#define LARGE 0x80

	.text
/* Interrupts only end a HLT: they note that they came and are done. */
	.globl device_interrupt, timer_interrupt, spurious_interrupt
device_interrupt:
	movb $1, device_interrupted
timer_interrupt:
	push %rax
	mov $0xfee000b0, %eax		/* local APIC: end of interrupt */
	movl $0, (%rax)
	pop %rax
spurious_interrupt:
	iretq

	.globl devices			/* the first of their pages */
	.set devices, 0xfe000000 + PRESENT + WRITE + UNCACHED + LARGE

	.section .data
	.globl device_interrupted
device_interrupted:
	.byte 0

	.section .note.GNU-stack, "", @progbits
