/* SPDX-License-Identifier: ISC */
/* What PVH tells, what needs the processor alone, and the way in and out. */
#include "cpu.h"

#define PVH_MAGIC 0x336ec578
#define PVH_MEMORY_RAM 1

extern char image_end[];
_Noreturn void platform_start(const struct pvh_start_info *pvh);

void console_string(const char *text)
{
	platform_console_write(text, strlen(text));
}

void platform_exit(int status)
{
	char line[32];
	struct text text = TEXT_IN(line);

	text_string(&text, "jitsu: exit ");
	text_decimal(&text, (uint8_t)status);
	text_string(&text, "\n");
	platform_console_write(text.start, text.length);
	board_exit(status);
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

static _Noreturn void give_up(const char *reason)
{
	console_string("jitsu: ");
	console_string(reason);
	console_string("\n");
	platform_exit(1);
}

void platform_start(const struct pvh_start_info *pvh)
{
	struct platform_start_info info = { .name = board_name, .cmdline = "" };
	uintptr_t heap = ((uintptr_t)image_end + PAGE - 1) & ~(PAGE - 1);
	uintptr_t end;
	const char *error;

	traps_init();
	if (pvh->magic != PVH_MAGIC)
		give_up("not started by PVH");
	if (pvh->cmdline != 0)
		info.cmdline = (const char *)pvh->cmdline;
	end = memory_end(pvh);
	error = board_init(pvh, &heap, end);
	if (error != NULL)
		give_up(error);
	info.heap_start = (void *)heap;
	info.heap_size = end - heap;
	platform_exit(app_main(&info));
}
