/* SPDX-License-Identifier: ISC */
/* The virtio platform: what PVH tells, the rest of the contract, and the way out. */
#include "cpu.h"

#define CONSOLE_PORT 0xe9 /* QEMU's -debugcon */

#define PVH_MAGIC 0x336ec578
#define PVH_MEMORY_RAM 1

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

/* start.S maps so much memory; what is above it stays unused. */
#define MEMORY_MAX (1ul << 30)
#define PAGE 4096ul

extern char image_end[];
_Noreturn void platform_start(const struct pvh_start_info *pvh);

void platform_console_write(const char *text, size_t size)
{
	while (size-- > 0)
		out8(CONSOLE_PORT, (uint8_t)*text++);
}

void console_string(const char *text)
{
	platform_console_write(text, strlen(text));
}

/*
 * A triple fault: without an interrupt table not even the fault of a fault can be
 * delivered, so the machine resets, and QEMU with -no-reboot ends. It has no
 * status to pass on (isa-debug-exit would, if there were one): the console has.
 */
void platform_exit(int status)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing;
	char line[32];
	struct text text = TEXT_IN(line);

	text_string(&text, "jitsu: exit ");
	text_decimal(&text, (uint8_t)status);
	text_string(&text, "\n");
	platform_console_write(text.start, text.length);
	__asm__ volatile("cli; lidt %0; ud2" : : "m"(nothing));
	for (;;)
		__asm__ volatile("hlt");
}

void platform_random(void *buffer, size_t size)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;
	uint8_t *byte = buffer;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	while (size > 0) {
		uint64_t value = read_tsc() * 0x9e3779b97f4a7c15; /* its low bits are the best */
		uint64_t random;
		uint8_t ok = 0;
		size_t part = min(size, sizeof(value));

		if ((ecx & 1u << 30) != 0)
			__asm__ volatile("rdrand %0; setc %1" : "=r"(random), "=qm"(ok) : : "cc");
		if (ok)
			value ^= random;
		memcpy(byte, &value, part);
		byte += part;
		size -= part;
	}
}

void platform_yield(uint64_t deadline)
{
	if (virtio_net_waiting() || platform_clock_monotonic() >= deadline)
		return;
	clock_set_alarm(deadline);
	if (virtio_net_watch())
		wait_for_interrupt();
	virtio_net_unwatch();
}

/* The end of the memory that begins below the image and goes on behind it. */
static uintptr_t memory_end(const struct pvh_start_info *pvh)
{
	const struct pvh_memory *map = (const void *)pvh->memory_map;
	uintptr_t end = (uintptr_t)image_end;

	if (pvh->version < 1)
		return end;
	for (uint32_t i = 0; i < pvh->memory_map_entries; i++)
		if (map[i].type == PVH_MEMORY_RAM && map[i].start <= (uintptr_t)image_end &&
		    map[i].start + map[i].size > end)
			end = map[i].start + map[i].size;
	return min(end, MEMORY_MAX);
}

void platform_start(const struct pvh_start_info *pvh)
{
	struct platform_start_info info = { .name = "virtio", .cmdline = "" };
	uintptr_t heap = ((uintptr_t)image_end + PAGE - 1) & ~(PAGE - 1);
	uintptr_t end;

	interrupts_init();
	clock_init();
	if (pvh->magic != PVH_MAGIC) {
		console_string("jitsu: not started by PVH\n");
		platform_exit(1);
	}
	if (pvh->cmdline != 0)
		info.cmdline = (const char *)pvh->cmdline;
	end = memory_end(pvh);
	if (!virtio_net_init(info.cmdline, &heap, end)) {
		console_string("jitsu: no virtio-net device, or no memory for it\n");
		platform_exit(1);
	}
	info.heap_start = (void *)heap;
	info.heap_size = end - heap;
	platform_exit(app_main(&info));
}
