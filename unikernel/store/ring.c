/* SPDX-License-Identifier: ISC */
/*
 * The stream of bytes by Xen's ring: 1 KiB each way in a page that we share with the
 * store's host. Nothing gets lost in it, so it has neither numbers nor time-outs.
 *
 * The host may be hostile: all it writes is copied once and then looked at, and an index
 * that cannot be breaks the ring for good, since where the next message begins nobody
 * knows. A broken ring is left alone: requests get no answer any more.
 */
#include "ring.h"
#include "store.h"

/* x86 keeps writes in order, and reads; only a write and a later read need more. */
#define ORDERED() __asm__ volatile("" : : : "memory")
#define FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static void breaks(struct store *store)
{
	store->rubbish++;
	store->broken = true;
}

/* True if the host may be waiting for the room. */
static bool receive(struct store *store, volatile struct store_ring *ring)
{
	uint32_t before = ring->rsp_cons;
	uint32_t consumed = before;
	uint32_t waiting = ring->rsp_prod - before;

	if (waiting > STORE_RING_SIZE) {
		breaks(store);
		return false;
	}
	ORDERED();
	while (waiting > 0 && !store->broken) {
		uint32_t at = consumed % STORE_RING_SIZE;
		uint32_t part = min(waiting, STORE_RING_SIZE - at);

		/* It copies each byte once, and looks at the copy. */
		if (!messages_input(store, (const uint8_t *)ring->rsp + at, part))
			breaks(store);
		consumed += part;
		waiting -= part;
	}
	ORDERED(); /* they have been read when the host sees that they were */
	ring->rsp_cons = consumed;
	FENCE(); /* and it sees the room, or we that it has filled the ring meanwhile */
	return ring->rsp_prod - before >= STORE_RING_SIZE;
}

/* True if the host has something to read. */
static bool transmit(struct store *store, volatile struct store_ring *ring)
{
	struct store_link *link = &store->link;
	uint32_t produced = ring->req_prod;
	uint32_t taken = produced - ring->req_cons;
	size_t length;

	if (taken > STORE_RING_SIZE) {
		breaks(store);
		return false;
	}
	FENCE(); /* the room is seen before it is written to */
	length = min(link->queued, STORE_RING_SIZE - taken);
	for (size_t sent = 0; sent < length;) {
		uint32_t at = (produced + (uint32_t)sent) % STORE_RING_SIZE;
		size_t part = min(length - sent, STORE_RING_SIZE - at);

		memcpy((uint8_t *)ring->req + at, link->queue + sent, part);
		sent += part;
	}
	link->queued -= length;
	memmove(link->queue, link->queue + length, link->queued);
	ORDERED(); /* the bytes are there before the index that shows them */
	ring->req_prod = produced + (uint32_t)length;
	return length > 0;
}

uint64_t store_poll(struct store *store)
{
	volatile struct store_ring *ring = platform_store_ring();
	bool made_room = !store->broken && receive(store, ring);
	bool sent = !store->broken && transmit(store, ring);

	if (made_room | sent) {
		FENCE();
		platform_store_notify();
	}
	return PLATFORM_NEVER; /* news of the ring end the sleep */
}

/* Nobody sets net->store here, so none comes. */
void store_input(struct store *store, const uint8_t *payload, size_t length)
{
	(void)payload, (void)length;
	store->rubbish++;
}

void store_init(struct store *store, struct net *net, store_handler *handler, void *context)
{
	store->net = net;
	store->handler = handler;
	store->context = context;
	for (uint32_t i = 0; i < STORE_REQUESTS; i++)
		store->request[i].id = i;
}
