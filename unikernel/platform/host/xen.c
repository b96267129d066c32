/* SPDX-License-Identifier: ISC */
/*
 * Xen as the drivers of platform/xen see it, for tests that play the store's host and the
 * network's backend: they find the ring and the grants here, and what these name in memory.
 * The drivers' state is theirs alone, so one guest at a time can live in a process.
 */
#include "host_guest.h"
#include "xen.h"

#include <stdlib.h>

#define STORE_PORT 1
#define NET_PORT 2

static struct store_ring store_ring;
static struct grant grants[GRANTS];
volatile struct grant *grant_table = grants;

uint32_t event_open(uint16_t domain)
{
	(void)domain;
	return NET_PORT;
}

/* The test looks at the rings whenever the guest waits. */
void event_send(uint32_t port)
{
	(void)port;
}

void console_string(const char *text)
{
	platform_console_write(text, strlen(text));
}

void wait_for_store(void)
{
	if (!xenbus_waiting())
		host_wait(PLATFORM_NEVER);
}

void wait_for_device(uint64_t deadline)
{
	host_wait(deadline);
}

void platform_yield(uint64_t deadline)
{
	netfront_watch();
	if (!(netfront_waiting() | xenbus_waiting()))
		host_wait(deadline);
}

static int xen_main(const struct platform_start_info *info)
{
	struct platform_start_info rest = *info;
	uintptr_t heap = (uintptr_t)info->heap_start, end = heap + info->heap_size;
	const char *error;

	xenbus_init(&store_ring, STORE_PORT);
	error = netfront_init(&heap, end);
	if (error != NULL) {
		console_string(error);
		return 1;
	}
	rest.name = "xen";
	rest.heap_start = (void *)heap;
	rest.heap_size = end - heap;
	return app_main(&rest);
}

struct host_guest *host_new_xen(const char *cmdline, uint64_t seed, size_t heap_size)
{
	memset(&store_ring, 0, sizeof(store_ring));
	memset(grants, 0, sizeof(grants));
	memset(&xenbus, 0, sizeof(xenbus));
	return host_new_app(cmdline, seed, heap_size, xen_main);
}

void *host_xen_ring(void)
{
	return &store_ring;
}

/* The page that a grant is of; NULL: nobody may use it. A frame's number has 32 bits. */
void *host_xen_page(struct host_guest *guest, uint32_t reference)
{
	uintptr_t heap = (uintptr_t)host_heap(guest);
	uintptr_t high = heap & ~(((uintptr_t)1 << 44) - 1);

	if (reference >= GRANTS || (grants[reference].flags & GRANT_PERMIT_ACCESS) == 0)
		return NULL;
	return (void *)(high | (uintptr_t)grants[reference].frame * PAGE);
}
