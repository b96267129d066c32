/* SPDX-License-Identifier: ISC */
/* The interrupt table, and what to do about a trap. */
#include "cpu.h"

#define EXCEPTIONS VECTOR_FIRST
#define STUB_SIZE 16
#define SELECTOR_CODE 0x08
#define SELECTOR_TSS 0x18
#define GATE_INTERRUPT 0x8e
#define TRAP_STACK 1

struct gate {
	uint16_t offset_low, selector;
	uint8_t stack, type;
	uint16_t offset_middle;
	uint32_t offset_high, zero;
};

struct task_state {
	uint32_t reserved0;
	uint64_t stack[3];
	uint64_t reserved1;
	uint64_t interrupt_stack[7];
	uint64_t reserved2;
	uint16_t reserved3, io_map;
} __attribute__((packed));

/* As the stubs in start.S and the processor push it. */
struct trap_frame {
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

static struct gate table[VECTOR_LAST + 1];
static struct task_state task_state;

extern uint64_t gdt_tss[2];
extern char trap_stack_top[], exception_stubs[];
void trap(const struct trap_frame *frame);

static void set_gate(unsigned vector, uintptr_t handler, uint8_t stack)
{
	table[vector] = (struct gate){
		.offset_low = (uint16_t)handler,
		.selector = SELECTOR_CODE,
		.stack = stack,
		.type = GATE_INTERRUPT,
		.offset_middle = (uint16_t)(handler >> 16),
		.offset_high = (uint32_t)(handler >> 32),
	};
}

static void load_task_state(void)
{
	uint64_t base = (uintptr_t)&task_state;

	task_state.interrupt_stack[TRAP_STACK - 1] = (uintptr_t)trap_stack_top;
	task_state.io_map = sizeof(task_state);
	gdt_tss[0] = (sizeof(task_state) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
		     (base >> 24 & 0xff) << 56;
	gdt_tss[1] = base >> 32;
	__asm__ volatile("ltr %0" : : "r"((uint16_t)SELECTOR_TSS));
}

void traps_init(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(table) - 1, (uintptr_t)table };

	for (unsigned i = 0; i < EXCEPTIONS; i++)
		set_gate(i, (uintptr_t)exception_stubs + i * STUB_SIZE, TRAP_STACK);
	load_task_state();
	__asm__ volatile("lidt %0" : : "m"(pointer));
}

void traps_handle(unsigned vector, void (*handler)(void))
{
	set_gate(vector, (uintptr_t)handler, 0);
}

/* One line for whoever reads the console, and the end. */
void trap(const struct trap_frame *frame)
{
	char line[160];
	struct text text = TEXT_IN(line);
	uint64_t address;

	__asm__ volatile("mov %%cr2, %0" : "=r"(address));
	text_string(&text, "jitsu: trap: vector=");
	text_decimal(&text, frame->vector);
	text_string(&text, " error=0x");
	text_hex(&text, frame->error, 8);
	text_string(&text, " rip=0x");
	text_hex(&text, frame->rip, 16);
	text_string(&text, " cr2=0x");
	text_hex(&text, address, 16);
	text_string(&text, " rsp=0x");
	text_hex(&text, frame->rsp, 16);
	text_string(&text, "\n");
	platform_console_write(text.start, text.length);
	platform_exit(255);
}
