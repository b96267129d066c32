/* SPDX-License-Identifier: ISC */
/* What start.S leaves to the platform: how the last 32 MiB below 4 GiB are mapped. */
#define PRESENT 1
#define WRITE 2
#define LARGE 0x80

	/* No devices: the toolstack's pages, and those of hypervisor.c. */
	.globl devices
	.set devices, 0xfe000000 + PRESENT + WRITE + LARGE

	.section .note.GNU-stack, "", @progbits
