/* SPDX-License-Identifier: ISC */
/* The processor, and what the platforms that are entered by PVH have in common. */
#ifndef CPU_H
#define CPU_H

#include "bytes.h"
#include "platform.h"

#define PAGE 4096ul

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

/* start.S */
/* It maps so much memory; what is above it stays unused. */
#define MEMORY_MAX (1ul << 30)
extern uint64_t entry_tsc; /* the clock's zero */

/* traps.c */
/* The vectors of interrupts are from here to the table's end. */
#define VECTOR_FIRST 0x20
#define VECTOR_LAST 0x3f
void traps_init(void);
/* `handler` saves what it uses, and ends with IRET. */
void traps_handle(unsigned vector, void (*handler)(void));

/* start.c */
/* xen/include/public/arch-x86/hvm/start_info.h */
struct pvh_start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, cmdline, rsdp;
	uint64_t memory_map; /* from version 1 on */
	uint32_t memory_map_entries, reserved;
};

struct pvh_memory {
	uint64_t start, size;
	uint32_t type, reserved;
};

void console_string(const char *text);

/* -- Of each platform -- */

extern const char board_name[];
/*
 * Brings clock and devices up. Takes memory for their rings off the front of the heap,
 * which goes up to `end`. Returns NULL, or what is wrong.
 */
const char *board_init(const struct pvh_start_info *pvh, uintptr_t *heap, uintptr_t end);
/* Ends the machine, after the console has said it. */
_Noreturn void board_exit(int status);

#endif
