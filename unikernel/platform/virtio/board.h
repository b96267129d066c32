/* SPDX-License-Identifier: ISC */
/* QEMU's microvm, as far as this platform needs it. */
#ifndef BOARD_H
#define BOARD_H

#include "cpu.h"

static inline uint32_t mmio_read(uintptr_t address)
{
	return *(volatile uint32_t *)address;
}

static inline void mmio_write(uintptr_t address, uint32_t value)
{
	*(volatile uint32_t *)address = value;
}

/* interrupts.c */
#define VECTOR_TIMER 0x30
#define VECTOR_DEVICE 0x31
#define VECTOR_SPURIOUS 0x3f

#define LAPIC 0xfee00000ul

extern volatile uint8_t device_interrupted;
void interrupts_init(void);
void interrupts_route(unsigned line);
/* Sleeps until any interrupt; they are off before and after. */
static inline void wait_for_interrupt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory"); /* STI takes effect after HLT began */
}

/* clock.c */
void clock_init(void);
/* An interrupt at `deadline`, or earlier. */
void clock_set_alarm(uint64_t deadline);

/* net.c */
/* Takes memory for its rings off the front of the heap; false if there is no device. */
bool virtio_net_init(const char *cmdline, uintptr_t *heap, uintptr_t end);
bool virtio_net_waiting(void);
/* Asks for an interrupt at the next frame; false if one is waiting already. */
bool virtio_net_watch(void);
void virtio_net_unwatch(void);

#endif
