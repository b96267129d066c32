/* SPDX-License-Identifier: ISC */
/* The Xen platform: clock, console, sleep, and the way out. */
#include "ring.h"
#include "xen.h"

#define HVM_PARAM_CONSOLE_PFN 17
#define HVM_PARAM_CONSOLE_EVTCHN 18
#define DEBUG_PORT 0xe9 /* Xen's own log, where it keeps one of guests */

/* io/console.h */
#define CONSOLE_SIZE 2048u
struct console_ring {
	char in[1024], out[CONSOLE_SIZE];
	uint32_t in_cons, in_prod;
	uint32_t out_cons, out_prod;
};

const char board_name[] = "xen";

static struct {
	bool ready; /* hypercalls can be made */
	uint64_t zero, last; /* system time at the entry; and when we were asked last */
} board;

/* -- The clock -- */

/* When Xen adjusts its rate, its time may go back by a little; ours stands still then. */
uint64_t platform_clock_monotonic(void)
{
	uint64_t now = system_time(read_tsc()) - board.zero;

	board.last = max(board.last, now);
	return board.last;
}

/* -- The console -- */

/* What there is no room for is lost: nobody may be reading. */
static void console_write(volatile struct console_ring *ring, const char *text, size_t size)
{
	uint32_t produced = ring->out_prod;

	while (size-- > 0 && produced - ring->out_cons < CONSOLE_SIZE)
		ring->out[produced++ % CONSOLE_SIZE] = *text++;
	compiler_barrier();
	ring->out_prod = produced;
}

void platform_console_write(const char *text, size_t size)
{
	uint64_t frame = board.ready ? hypervisor_parameter(HVM_PARAM_CONSOLE_PFN) : 0;

	if (frame != 0) {
		console_write((volatile struct console_ring *)(frame * PAGE), text, size);
		event_send((uint32_t)hypervisor_parameter(HVM_PARAM_CONSOLE_EVTCHN));
		return;
	}
	while (size-- > 0)
		out8(DEBUG_PORT, (uint8_t)*text++);
}

/* -- Sleeping -- */

void wait_for_store(void)
{
	uint32_t port = xenbus_port();

	event_clear(port);
	if (!xenbus_waiting())
		event_wait(&port, 1, 0);
}

void wait_for_device(uint64_t deadline)
{
	uint32_t port = netfront_port();

	event_wait(&port, 1, board.zero + deadline);
	event_clear(port);
}

void platform_yield(uint64_t deadline)
{
	uint32_t ports[] = { xenbus_port(), netfront_port() };
	bool never = deadline > UINT64_MAX - board.zero;

	if (netfront_waiting() | xenbus_waiting() || platform_clock_monotonic() >= deadline)
		return;
	event_clear(ports[0]);
	event_clear(ports[1]);
	netfront_watch();
	/* What comes from here on sets a bit; what came before is seen now. */
	if (!(netfront_waiting() | xenbus_waiting()))
		event_wait(ports, ports[1] != 0 ? 2 : 1, never ? 0 : board.zero + deadline);
}

/* -- In and out -- */

void board_exit(int status)
{
	if (board.ready)
		hypervisor_shutdown(status == 0 ? SHUTDOWN_POWEROFF : SHUTDOWN_CRASH);
	for (;;)
		__asm__ volatile("hlt");
}

static uintptr_t behind(uintptr_t heap, uint64_t address, size_t size)
{
	uintptr_t end = (address + size + PAGE - 1) & ~(PAGE - 1);

	return address < MEMORY_MAX ? max(heap, end) : heap;
}

/* The toolstack puts what it tells us right behind the image. */
static uintptr_t behind_start_info(uintptr_t heap, const struct pvh_start_info *pvh)
{
	size_t map = pvh->memory_map_entries * sizeof(struct pvh_memory);

	heap = behind(heap, (uintptr_t)pvh, sizeof(*pvh));
	heap = behind(heap, pvh->cmdline, pvh->cmdline ? strlen((char *)pvh->cmdline) + 1 : 0);
	return behind(heap, pvh->memory_map, map);
}

const char *board_init(const struct pvh_start_info *pvh, uintptr_t *heap, uintptr_t end)
{
	const char *error = hypervisor_init();
	uint64_t frame;

	if (error != NULL)
		return error;
	board.ready = true;
	board.zero = system_time(entry_tsc);
	*heap = behind_start_info(*heap, pvh);
	frame = hypervisor_parameter(HVM_PARAM_STORE_PFN);
	if (frame == 0)
		return "no store";
	xenbus_init((volatile struct store_ring *)(frame * PAGE),
		    (uint32_t)hypervisor_parameter(HVM_PARAM_STORE_EVTCHN));
	/* Xen scrubs what it gives out: with zeros, unless it was built for debugging. */
	if (*(const uint64_t *)(end - sizeof(uint64_t)) != 0)
		memset((void *)*heap, 0, end - *heap);
	return netfront_init(heap, end);
}
