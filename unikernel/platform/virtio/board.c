/* SPDX-License-Identifier: ISC */
/* The virtio platform: its console, its sleep, and the way out. */
#include "board.h"
#include "store.h"

#define CONSOLE_PORT 0xe9 /* QEMU's -debugcon */

const char board_name[] = "virtio";

void platform_console_write(const char *text, size_t size)
{
	while (size-- > 0)
		out8(CONSOLE_PORT, (uint8_t)*text++);
}

/*
 * A triple fault: without an interrupt table not even the fault of a fault can be
 * delivered, so the machine resets, and QEMU with -no-reboot ends. It has no
 * status to pass on (isa-debug-exit would, if there were one): the console has.
 */
void board_exit(int status)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing;

	(void)status;
	__asm__ volatile("cli; lidt %0; ud2" : : "m"(nothing));
	for (;;)
		__asm__ volatile("hlt");
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

/* A device of virtio is there from the start, and takes frames at once. */
bool platform_net_up(void)
{
	return true;
}

struct store *platform_store(store_handler *handler, void *context)
{
	(void)handler, (void)context;
	return NULL;
}

const char *board_init(const struct pvh_start_info *pvh, uintptr_t *heap, uintptr_t end)
{
	const char *cmdline = pvh->cmdline != 0 ? (const char *)pvh->cmdline : "";

	interrupts_init();
	clock_init();
	return virtio_net_init(cmdline, heap, end) ? NULL
						   : "no virtio-net device, or no memory for it";
}
