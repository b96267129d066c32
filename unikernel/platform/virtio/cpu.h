/* SPDX-License-Identifier: ISC */
/* The processor and the board, as far as this platform needs them. */
#ifndef CPU_H
#define CPU_H

#include "bytes.h"
#include "platform.h"

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint64_t read_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline uint32_t mmio_read(uintptr_t address)
{
	return *(volatile uint32_t *)address;
}

static inline void mmio_write(uintptr_t address, uint32_t value)
{
	*(volatile uint32_t *)address = value;
}

/* Keeps memory accesses before and after in order, for a device that watches. */
static inline void memory_barrier(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

/* Enough between two reads or two writes on x86, which keeps those in order itself. */
static inline void compiler_barrier(void)
{
	__asm__ volatile("" : : : "memory");
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
extern uint64_t entry_tsc;
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

/* start.c */
void console_string(const char *text);

#endif
