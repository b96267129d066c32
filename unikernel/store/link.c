/* SPDX-License-Identifier: ISC */
/*
 * The link: a stream of bytes to the host and one back, in frames of type 0x88b5.
 *
 * Behind the Ethernet header, all big-endian:
 *
 *	 0  u8   version, 1
 *	 1  u8   flags: 1 OPEN, we have heard nothing of the host in this session;
 *		 2 RESET, the sender knows no such session or ends it
 *	 2  u16  length of the data, up to 1400; the frame may be padded
 *	 4  u32  session, of our choice
 *	 8  u32  sequence: the number of the data in this frame, or of the next
 *	12  u32  acknowledged: how many segments with data have come in order
 *	16       data
 *
 * They go to the group of the nearest bridge (IEEE 802.1Q 8.6.3), which no bridge
 * forwards: whoever listens at our tap gets them, and nobody else.
 *
 * Each direction is stop-and-wait: one segment is under way, and is sent again after
 * 10 ms, then 20, and so on up to 640, for ever. What comes twice is acknowledged
 * twice; what comes out of turn is dropped. Acknowledgements wait for the end of the
 * turn, in which a request may take them along.
 *
 * When the host says RESET, it has forgotten us or wants no more of this session, so
 * we begin another, after a pause that doubles like the others.
 */
#include "store.h"

#define LINK_HEADER 16
#define LINK_DATA_MAX 1400
#define VERSION 1
#define RETRY_FIRST (10 * MS)
#define RETRY_MAX (640 * MS)

enum { OPEN = 1, RESET = 2 };

static const uint8_t nearest_bridge[MAC_SIZE] = { 0x01, 0x80, 0xc2, 0, 0, 0x0e };

static void link_begin(struct store_link *link, uint64_t not_before)
{
	do
		platform_random(&link->session, sizeof(link->session));
	while (link->session == 0);
	link->sequence = link->received = 0;
	link->heard = link->owed = false;
	link->in_flight = link->queued = 0;
	link->deadline = not_before;
}

static void transmit(struct store *store, uint8_t flags, size_t length)
{
	struct store_link *link = &store->link;
	uint8_t *frame = store->net->frame_out + ETHERNET_HEADER;
	/* Without data it names the next number, and one in flight has taken its own. */
	uint32_t taken = (length == 0) & (link->in_flight > 0);

	frame[0] = VERSION;
	frame[1] = (uint8_t)(flags | (link->heard ? 0 : OPEN));
	put16(frame + 2, (uint16_t)length);
	put32(frame + 4, link->session);
	put32(frame + 8, link->sequence + taken);
	put32(frame + 12, link->received);
	memcpy(frame + LINK_HEADER, link->queue, length);
	net_send(store->net, nearest_bridge, TYPE_STORE, frame, LINK_HEADER + length);
	link->owed = false;
}

/* Begins a new session, and lets the app redo its work. */
static void start_over(struct store *store)
{
	struct store_link *link = &store->link;

	link_begin(link, store->net->now + link->interval);
	link->interval = min(2 * link->interval, RETRY_MAX);
	store->sessions++;
	messages_lost(store);
}

static void acknowledged(struct store_link *link, uint32_t count)
{
	if ((link->in_flight == 0) | (count != link->sequence + 1))
		return;
	link->sequence = count;
	link->queued -= link->in_flight;
	memmove(link->queue, link->queue + link->in_flight, link->queued);
	link->in_flight = 0;
	link->deadline = 0;
	link->interval = RETRY_FIRST;
}

static bool is_sound(const uint8_t *frame, size_t length)
{
	size_t data = get16(frame + 2);

	return (frame[0] == VERSION) & ((frame[1] & ~(OPEN | RESET)) == 0) &
	       (data <= LINK_DATA_MAX) & (data <= length - LINK_HEADER);
}

void store_input(struct store *store, const uint8_t *payload, size_t length)
{
	struct store_link *link = &store->link;

	if (length < LINK_HEADER || !is_sound(payload, length) ||
	    get32(payload + 4) != link->session) {
		store->rubbish++; /* or of a session that is over */
		return;
	}
	if ((payload[1] & RESET) != 0) {
		start_over(store);
		return;
	}
	uint32_t behind = link->received - get32(payload + 8);
	size_t data = get16(payload + 2);

	link->heard = true;
	acknowledged(link, get32(payload + 12));
	if (data == 0)
		return;
	if (behind >> 31 != 0) { /* it is ahead of what comes next */
		store->rubbish++;
		return;
	}
	link->owed = true;
	if (behind > 0)
		return; /* it has come before */
	link->received++;
	if (!messages_input(store, payload + LINK_HEADER, data)) {
		store->rubbish++;
		transmit(store, RESET, 0);
		start_over(store);
	}
}

uint64_t store_poll(struct store *store)
{
	struct store_link *link = &store->link;

	if ((link->queued > 0) & (store->net->now >= link->deadline)) {
		size_t room = min(LINK_DATA_MAX, (size_t)store->net->mtu - LINK_HEADER);

		if (link->in_flight > 0)
			store->retransmits++;
		else
			link->in_flight = min(link->queued, room);
		transmit(store, 0, link->in_flight);
		link->deadline = store->net->now + link->interval;
		link->interval = min(2 * link->interval, RETRY_MAX);
	} else if (link->owed) {
		transmit(store, 0, 0);
	}
	return link->queued > 0 ? link->deadline : PLATFORM_NEVER;
}

void store_init(struct store *store, struct net *net, store_handler *handler, void *context)
{
	store->net = net;
	store->handler = handler;
	store->context = context;
	for (uint32_t i = 0; i < STORE_REQUESTS; i++)
		store->request[i].id = i;
	store->link.interval = RETRY_FIRST;
	link_begin(&store->link, 0);
	net->store = store;
}
