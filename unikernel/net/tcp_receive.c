/* SPDX-License-Identifier: ISC */
/*
 * The receive buffer. Bytes in order lie at its start, so an app reads them in
 * one piece; bytes ahead of a gap ("islands") lie where they will belong:
 *
 *	| receive_length bytes to read | gap | island | gap | island |   free   |
 *	^ buffer                       ^ rcv_nxt                      ^ rcv_edge at most
 */
#include "net.h"

uint32_t tcp_receive_window(const struct tcp_connection *c)
{
	return c->rcv_edge - c->rcv_nxt;
}

static uint8_t *buffer(const struct tcp_connection *c)
{
	return c->net->tcp.buffers[tcp_index(c)].receive;
}

const uint8_t *tcp_peek(const struct tcp_connection *c, size_t *length)
{
	*length = c->receive_length;
	return buffer(c);
}

bool tcp_peer_finished(const struct tcp_connection *c)
{
	return c->fin_taken;
}

void tcp_consume(struct tcp_connection *c, size_t length)
{
	uint32_t size = (uint32_t)min(length, c->receive_length);
	uint32_t rest = c->receive_length - size;

	if (size == 0)
		return;
	c->receive_length = rest;
	if (c->islands > 0)
		rest += c->island[c->islands - 1].end - c->rcv_nxt;
	if (rest > 0)
		memmove(buffer(c), buffer(c) + size, rest);
}

/*
 * Opens the window by what was consumed, in steps worth a segment: small ones
 * would teach the peer to send small segments (RFC 9293 3.8.6.2.2).
 */
void tcp_window_update(struct tcp_connection *c)
{
	uint32_t edge = c->rcv_nxt + TCP_RECEIVE_BUFFER - c->receive_length;

	if (c->fin_taken | (edge - c->rcv_edge < min(TCP_RECEIVE_BUFFER / 2u, c->mss)))
		return;
	c->rcv_edge = edge;
	c->ack_due = true;
}

/* Adds start..end to the islands, joining those it touches; false if there is no place. */
static bool island_add(struct tcp_connection *c, uint32_t start, uint32_t end)
{
	unsigned first = 0, after, moved;

	while (first < c->islands && seq_before(c->island[first].end, start))
		first++;
	for (after = first; after < c->islands && seq_upto(c->island[after].start, end); after++) {
		if (seq_before(c->island[after].start, start))
			start = c->island[after].start;
		if (seq_before(end, c->island[after].end))
			end = c->island[after].end;
	}
	if (after == first && c->islands == TCP_ISLANDS)
		return false;
	moved = c->islands - after;
	memmove(&c->island[first + 1], &c->island[after], moved * sizeof(c->island[0]));
	c->island[first] = (struct tcp_island){ start, end };
	c->islands = (uint8_t)(first + 1 + moved);
	return true;
}

/* Takes islands that the bytes in order have reached. */
static void islands_join(struct tcp_connection *c)
{
	while (c->islands > 0 && seq_upto(c->island[0].start, c->rcv_nxt)) {
		if (seq_before(c->rcv_nxt, c->island[0].end)) {
			c->receive_length += c->island[0].end - c->rcv_nxt;
			c->rcv_nxt = c->island[0].end;
		}
		c->islands--;
		memmove(&c->island[0], &c->island[1], c->islands * sizeof(c->island[0]));
	}
}

void tcp_receive_data(struct tcp_connection *c, uint32_t seq, const uint8_t *data, uint32_t length)
{
	uint32_t known = seq_before(seq, c->rcv_nxt) ? min(c->rcv_nxt - seq, length) : 0;
	uint32_t limit = c->fin_seen ? c->fin_seq : c->rcv_edge;

	seq += known; /* had that already */
	data += known;
	length -= known;
	if (seq_before(c->rcv_edge, limit))
		limit = c->rcv_edge;
	if ((length == 0) | !seq_before(seq, limit))
		return;
	length = min(length, limit - seq);
	if (seq != c->rcv_nxt) {
		if (island_add(c, seq, seq + length))
			memcpy(buffer(c) + c->receive_length + (seq - c->rcv_nxt), data, length);
		return;
	}
	memcpy(buffer(c) + c->receive_length, data, length);
	c->rcv_nxt += length;
	c->receive_length += length;
	islands_join(c);
}
