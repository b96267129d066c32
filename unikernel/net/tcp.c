/* SPDX-License-Identifier: ISC */
/*
 * TCP (RFC 9293) for a server: connections come to us, we never call out.
 *
 * Theory of operation
 *
 * A connection is one entry of a table with two fixed buffers; the memory given
 * at the start decides how many there are. So there is no allocation and no way to
 * run out but the table itself. Everything happens in one of two ways. A segment
 * comes in:
 *
 *	tcp_input         parse and verify; find the connection
 *	  tcp_listen.c    none: a new one, a cookie, or a reset
 *	  tcp_input.c     the steps of RFC 9293 3.10.7.4 in their order
 *	    tcp_ack.c     bytes leave the send buffer; congestion control
 *	    tcp_receive.c bytes enter the receive buffer, or an island ahead of it
 *	  event           the app looks at what changed, reads and writes
 *	  tcp_output.c    sends all that windows allow; else an ACK if one is due
 *
 * or time passes (tcp_timer.c): retransmission, persist probe, expiry of a
 * state, or the app's own deadline. A time-out moves snd_nxt back to snd_una and
 * lets tcp_output send again from there (go-back-N, as BSD does), while three
 * duplicate ACKs resend the first segment alone (NewReno, RFC 6582).
 *
 * Sending is bounded by the peer's window, by the congestion window (RFC 5681;
 * initial window of RFC 6928) and by the buffer. Time-outs are those of RFC 6298.
 * Resets, SYNs and ACKs out of place are met as RFC 5961 says: with a challenge
 * ACK, at most one in half a second for each connection.
 *
 * A flood of SYNs cannot lock anybody out: beyond a quarter of the table in half-open
 * connections a SYN is answered with a cookie (RFC 4987 3.6) and kept nowhere.
 * Every state but ESTABLISHED and CLOSE_WAIT, which the app bounds with its
 * deadline, ends by itself after a time.
 *
 * Left out, and why that is safe:
 *  - Active open, urgent data: no service here uses them; URG is ignored.
 *  - Timestamps and PAWS (RFC 7323): the window is below 64 KiB, so an old
 *    segment would have to survive until 4 GiB later. We do not offer the
 *    option, so peers do not expect it.
 *  - SACK (RFC 2018): not offered; with at most eleven segments in flight
 *    NewReno repairs what it would.
 *  - CLOSED after LAST_ACK: a little later. The peer's segments from before we got our address
 *    may come by way of the host, and so after younger ones.
 *  - Delayed ACKs: optional (RFC 9293 3.8.6.3). ACKs ride on answers.
 *  - Nagle: the app queues whole answers, so small segments end them.
 *  - Data on a SYN: not acknowledged; the peer sends it again.
 *  - ICMP errors: see icmp.c. TCP Fast Open, ECN, MD5/AO: not negotiated.
 */
#include "net.h"

/* Closed by the app, and the peer does not take what is left. */
#define ORPHAN (120 * SECOND)
/* The peer has all and should close: what Linux grants (tcp_fin_timeout). */
#define FIN_WAIT_2 (60 * SECOND)
/* Twice a segment's life of 15 s, ample where the peer is a few hops away. */
#define TIME_WAIT (30 * SECOND)

/* Kinds of options; the latter two with their length. */
enum { OPTION_END = 0, OPTION_NOP = 1, OPTION_MSS = 2 << 8 | 4, OPTION_WINDOW_SCALE = 3 << 8 | 3 };

static void parse_options(struct tcp_segment *segment, const uint8_t *option, size_t length)
{
	while (length >= 2 && option[0] != OPTION_END) { /* the last byte alone says nothing */
		bool nop = option[0] == OPTION_NOP;
		size_t size = nop ? 1 : option[1];

		if ((size > length) | (size < 2 && !nop))
			return; /* rubbish: what was understood so far holds */
		if (get16(option) == OPTION_MSS)
			segment->mss = get16(option + 2);
		if (get16(option) == OPTION_WINDOW_SCALE)
			segment->window_shift = min(option[2], 14); /* RFC 7323 2.3 */
		option += size;
		length -= size;
	}
}

static bool parse(const struct packet *packet, struct tcp_segment *segment)
{
	const uint8_t *header = packet->payload;
	size_t header_length;

	if (packet->length < TCP_HEADER)
		return false;
	header_length = (size_t)(header[12] >> 4) * 4;
	if ((header_length < TCP_HEADER) | (header_length > packet->length) ||
	    checksum_of(&packet->ends, IP_TCP, header, packet->length) != 0)
		return false;
	*segment = (struct tcp_segment){
		.peer = { .ends = packet->ends,
			  .port = get16(header),
			  .local_port = get16(header + 2) },
		.seq = get32(header + 4),
		.ack = get32(header + 8),
		.flags = header[13] & (FIN | SYN | RST | PSH | ACK),
		.window = get16(header + 14),
		.data = header + header_length,
		.length = (uint32_t)(packet->length - header_length),
		.window_shift = -1,
	};
	if ((segment->flags & SYN) != 0)
		parse_options(segment, header + TCP_HEADER, header_length - TCP_HEADER);
	return (segment->peer.port != 0) & (segment->peer.local_port != 0);
}

static struct tcp_connection *find(struct net *net, const struct tcp_peer *peer)
{
	for (unsigned i = 0; i < net->tcp.used; i++) {
		struct tcp_connection *c = &net->tcp.connection[i];

		if ((c->state != TCP_FREE) & (c->peer.port == peer->port) &
		    (c->peer.local_port == peer->local_port) &
		    ip_equal(c->peer.ends.theirs, peer->ends.theirs) &
		    ip_equal(c->peer.ends.ours, peer->ends.ours))
			return c;
	}
	return NULL;
}

void tcp_input(struct net *net, const struct packet *packet)
{
	struct tcp_segment segment;
	struct tcp_connection *c;

	if (!parse(packet, &segment)) {
		net->counters.malformed++;
		return;
	}
	c = find(net, &segment.peer);
	/*
	 * A peer that uses its port again before TIME_WAIT is over may do so with
	 * a sequence number beyond the old ones (RFC 9293 3.6.1).
	 */
	if (c != NULL && c->state == TCP_TIME_WAIT && segment.flags == SYN &&
	    seq_before(c->rcv_nxt, segment.seq)) {
		tcp_release(c);
		c = NULL;
	}
	if (c == NULL)
		tcp_listen_input(net, &segment);
	else
		tcp_segment_input(c, &segment);
}

uint64_t tcp_poll(struct net *net)
{
	uint64_t next = PLATFORM_NEVER;

	for (unsigned i = 0; i < net->tcp.used; i++) {
		struct tcp_connection *c = &net->tcp.connection[i];

		if (c->state == TCP_FREE)
			continue;
		tcp_timers(c);
		if (c->state != TCP_FREE)
			next = min(next, min(c->retransmit_at, min(c->expires_at, c->deadline)));
	}
	return next;
}

/* -- The table -- */

void tcp_init(struct net *net, void *memory, unsigned connections)
{
	struct tcp *tcp = &net->tcp;

	tcp->capacity = connections;
	tcp->connection = memory;
	tcp->buffers = (void *)(tcp->connection + connections);
}

/*
 * The lowest free entry, so that memory touched before is used again; or else
 * the oldest that is over but for waiting, or never quite began.
 */
static struct tcp_connection *find_room(struct net *net)
{
	struct tcp_connection *oldest = NULL;

	for (unsigned i = 0; i < net->tcp.capacity; i++) {
		struct tcp_connection *c = &net->tcp.connection[i];

		if (c->state == TCP_FREE)
			return c;
		if (c->state != TCP_TIME_WAIT && c->state != TCP_SYN_RECEIVED)
			continue;
		if (oldest == NULL || (c->state == TCP_TIME_WAIT && oldest->state != c->state) ||
		    (c->state == oldest->state && c->since < oldest->since))
			oldest = c;
	}
	if (oldest != NULL)
		tcp_release(oldest);
	return oldest;
}

struct tcp_connection *tcp_claim(struct net *net, const struct tcp_segment *segment)
{
	struct tcp_connection *c = find_room(net);

	if (c == NULL)
		return NULL;
	memset(c, 0, sizeof(*c));
	c->net = net;
	c->peer = segment->peer;
	c->irs = segment->seq;
	c->retransmit_at = c->expires_at = c->deadline = PLATFORM_NEVER;
	net->tcp.used = max(net->tcp.used, tcp_index(c) + 1);
	return c;
}

void tcp_enter(struct tcp_connection *c, enum tcp_state state)
{
	/* How long a state may last that the app has no part in. */
	static const uint64_t lasts[] = {
		[TCP_FIN_WAIT_1] = ORPHAN, /* begins anew with each byte acknowledged */
		[TCP_CLOSING] = ORPHAN,
		[TCP_LAST_ACK] = ORPHAN,
		[TCP_FIN_WAIT_2] = FIN_WAIT_2,
		[TCP_TIME_WAIT] = TIME_WAIT,
	};

	c->net->tcp.half_open -= c->state == TCP_SYN_RECEIVED;
	c->net->tcp.half_open += state == TCP_SYN_RECEIVED;
	c->state = state;
	c->since = c->net->now;
	c->expires_at = lasts[state] == 0 ? PLATFORM_NEVER : c->since + lasts[state];
	if ((state == TCP_FIN_WAIT_2) | (state == TCP_TIME_WAIT))
		c->retransmit_at = PLATFORM_NEVER;
}

void tcp_release(struct tcp_connection *c)
{
	struct tcp *tcp = &c->net->tcp;

	tcp_enter(c, TCP_FREE);
	while (tcp->used > 0 && tcp->connection[tcp->used - 1].state == TCP_FREE)
		tcp->used--; /* a burst is over: nobody walks its entries any more */
}

void tcp_reset_connection(struct tcp_connection *c)
{
	/* A segment that would acknowledge all we sent: its reset is in the window. */
	const struct tcp_segment last = { .peer = c->peer, .flags = ACK, .ack = c->snd_nxt };

	tcp_send_reset(c->net, &last);
	tcp_release(c);
}

void tcp_event(struct tcp_connection *c, enum tcp_event event)
{
	if (!c->closed_by_app)
		c->listener->handler(c->listener->app, c, event);
}

/* -- The calls of apps; tcp_listen() is in tcp_listen.c -- */

unsigned tcp_index(const struct tcp_connection *c)
{
	return (unsigned)(c - c->net->tcp.connection);
}

uint64_t tcp_now(const struct tcp_connection *c)
{
	return c->net->now;
}

size_t tcp_room(const struct tcp_connection *c)
{
	return c->fin_queued ? 0 : TCP_SEND_BUFFER - c->send_length;
}

size_t tcp_write(struct tcp_connection *c, const void *data, size_t length)
{
	uint8_t *ring = c->net->tcp.buffers[tcp_index(c)].send;
	uint32_t end = (c->send_start + c->send_length) % TCP_SEND_BUFFER;
	uint32_t size = (uint32_t)min(length, tcp_room(c));
	uint32_t first = min(size, TCP_SEND_BUFFER - end);

	memcpy(ring + end, data, first);
	if (first < size)
		memcpy(ring, (const uint8_t *)data + first, size - first);
	c->send_length += size;
	return size;
}

void tcp_close(struct tcp_connection *c)
{
	if (c->closed_by_app)
		return;
	c->closed_by_app = true;
	c->fin_queued = true;
	c->deadline = PLATFORM_NEVER;
	tcp_consume(c, c->receive_length);
	tcp_enter(c, c->state == TCP_CLOSE_WAIT ? TCP_LAST_ACK : TCP_FIN_WAIT_1);
}

void tcp_abort(struct tcp_connection *c)
{
	c->closed_by_app = true;
	tcp_reset_connection(c);
}

void tcp_set_deadline(struct tcp_connection *c, uint64_t when)
{
	if (!c->closed_by_app)
		c->deadline = when;
}
