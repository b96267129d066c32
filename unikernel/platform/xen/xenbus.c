/* SPDX-License-Identifier: ISC */
/*
 * The store as devices see it. It is open before the app begins, since the network device
 * is found in it; the app then shares it. Its requests and ours go out together.
 */
#include "ring.h"
#include "xen.h"

#define SHUTDOWN "control/shutdown"

struct store xenbus;

static struct {
	volatile struct store_ring *ring;
	uint32_t port;
	store_handler *handler; /* the app's */
	void *context;
} bus;

volatile struct store_ring *platform_store_ring(void)
{
	return bus.ring;
}

void platform_store_notify(void)
{
	event_send(bus.port);
}

uint32_t xenbus_port(void)
{
	return bus.port;
}

bool xenbus_waiting(void)
{
	bool room = bus.ring->req_prod - bus.ring->req_cons < STORE_RING_SIZE;

	return (!xenbus.broken) &
	       ((bus.ring->rsp_prod != bus.ring->rsp_cons) | (room & (xenbus.link.queued > 0)));
}

struct store *platform_store(store_handler *handler, void *context)
{
	bus.handler = handler;
	bus.context = context;
	return &xenbus;
}

/* -- Being told to end -- */

static void on_acknowledged(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)result, (void)payload;
	platform_exit(0);
}

/* "suspend" we cannot, and leave unanswered: then it has not happened. */
static void on_shutdown(void *context, enum store_result result, struct slice payload)
{
	struct slice nothing = { "", 0 };

	(void)context;
	if (result == STORE_DONE && (slice_is(payload, "poweroff") || slice_is(payload, "halt") ||
				     slice_is(payload, "reboot")))
		store_write(&xenbus, SHUTDOWN, nothing, on_acknowledged, NULL);
}

static void on_watch(void *context, struct slice path, struct slice token)
{
	(void)context;
	if (slice_is(token, "state"))
		netfront_state_changed();
	else if (slice_is(token, "shutdown"))
		store_read(&xenbus, SHUTDOWN, on_shutdown, NULL);
	else if (bus.handler != NULL)
		bus.handler(bus.context, path, token);
}

static void ignore(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)result, (void)payload;
}

void xenbus_watch_shutdown(void)
{
	store_watch(&xenbus, SHUTDOWN, "shutdown", ignore, NULL);
}

void xenbus_init(volatile struct store_ring *ring, uint32_t port)
{
	bus.ring = ring;
	bus.port = port;
	bus.handler = NULL;
	xenbus.broken = false;
	store_init(&xenbus, NULL, on_watch, NULL);
}
