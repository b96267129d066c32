/* SPDX-License-Identifier: ISC */
/* Everything TCP sends, and when it may. */
#include "net.h"

#define CHECKSUM_OFFSET 16
/* RFC 5961 7 asks for a limit; ours is for each connection, so no other can be felt. */
#define CHALLENGE_INTERVAL (500 * MS)

/* What a header says beyond its ports. */
struct header {
	uint32_t seq, ack;
	uint8_t flags;
	uint32_t window;
	uint8_t options; /* bytes, already in place after the header */
};

/* Sends the `length` bytes that already lie behind header and options. */
static void emit(struct net *net, const struct tcp_peer *peer, struct header header, size_t length)
{
	uint8_t *tcp = ip_payload(net);
	size_t total = TCP_HEADER + header.options + length;

	put16(tcp, peer->local_port);
	put16(tcp + 2, peer->port);
	put32(tcp + 4, header.seq);
	put32(tcp + 8, header.ack);
	tcp[12] = (uint8_t)((TCP_HEADER + header.options) / 4 << 4);
	tcp[13] = header.flags;
	put16(tcp + 14, (uint16_t)min(header.window, 0xffffu));
	put32(tcp + CHECKSUM_OFFSET, 0); /* and no urgent pointer */
	put16(tcp + CHECKSUM_OFFSET, checksum_of(&peer->ends, IP_TCP, tcp, total));
	ip_send(net, &peer->ends, IP_TCP, total);
}

/* The part of the stream from `seq` on, with whatever the flags say. */
static void send_stream(struct tcp_connection *c, uint32_t seq, uint32_t length, uint8_t flags)
{
	const uint8_t *ring = c->net->tcp.buffers[tcp_index(c)].send;
	uint8_t *data = ip_payload(c->net) + TCP_HEADER;
	uint32_t start = (c->send_start + (seq - c->snd_una)) % TCP_SEND_BUFFER;
	uint32_t first = min(length, TCP_SEND_BUFFER - start);

	memcpy(data, ring + start, first);
	if (first < length)
		memcpy(data + first, ring, length - first);
	c->ack_due = false;
	emit(c->net, &c->peer,
	     (struct header){ .seq = seq,
			      .ack = c->rcv_nxt,
			      .flags = flags | ACK,
			      .window = tcp_receive_window(c) },
	     length);
}

void tcp_send_ack(struct tcp_connection *c)
{
	send_stream(c, c->snd_nxt, 0, 0);
}

void tcp_challenge_ack(struct tcp_connection *c)
{
	if (c->net->now < c->challenge_after)
		return;
	c->challenge_after = c->net->now + CHALLENGE_INTERVAL;
	tcp_send_ack(c);
}

/* MSS and, if the peer has one, window scale: ours is 0, which still lets it use its own. */
static uint8_t put_syn_options(struct net *net, const struct tcp_peer *peer, bool shift)
{
	static const uint8_t window_scale[4] = { 1, 3, 3, 0 };
	uint8_t *option = ip_payload(net) + TCP_HEADER;

	put16(option, 2 << 8 | 4);
	put16(option + 2, tcp_mss(net, peer->ends.theirs));
	if (!shift)
		return 4;
	memcpy(option + 4, window_scale, sizeof(window_scale));
	return 8;
}

void tcp_send_syn_ack(struct tcp_connection *c)
{
	uint8_t options = put_syn_options(c->net, &c->peer, c->shift_offered);

	if (c->retransmit_at == PLATFORM_NEVER) { /* the first time */
		c->timing = true;
		c->timed_at = c->net->now;
		c->retransmit_at = c->net->now + tcp_rto(c);
	}
	emit(c->net, &c->peer,
	     (struct header){ .seq = c->iss,
			      .ack = c->rcv_nxt,
			      .flags = SYN | ACK,
			      .window = tcp_receive_window(c),
			      .options = options },
	     0);
}

void tcp_send_cookie(struct net *net, const struct tcp_segment *segment, uint32_t iss)
{
	emit(net, &segment->peer,
	     (struct header){ .seq = iss,
			      .ack = segment->seq + 1,
			      .flags = SYN | ACK,
			      .window = TCP_RECEIVE_BUFFER,
			      .options = put_syn_options(net, &segment->peer, false) },
	     0);
}

/* RFC 9293 3.5.2: so that it is acceptable to whoever sent `segment`. */
void tcp_send_reset(struct net *net, const struct tcp_segment *segment)
{
	struct header header = { .flags = RST, .seq = segment->ack };

	if ((segment->flags & ACK) == 0) {
		header = (struct header){ .flags = RST | ACK, .ack = segment->seq };
		header.ack += segment->length;
		header.ack += (segment->flags & SYN) != 0;
		header.ack += (segment->flags & FIN) != 0;
	}
	net->counters.tcp_resets_out++;
	emit(net, &segment->peer, header, 0);
}

static void sent(struct tcp_connection *c, uint32_t end)
{
	c->sent_at = c->net->now;
	if (seq_before(c->snd_max, end))
		c->snd_max = end;
	if (c->retransmit_at == PLATFORM_NEVER)
		c->retransmit_at = c->net->now + tcp_rto(c);
}

/* Only segments sent for the first time tell the round-trip time (Karn's rule). */
static void start_timing(struct tcp_connection *c)
{
	if (c->timing | (c->snd_nxt != c->snd_max))
		return;
	c->timing = true;
	c->timed_seq = c->snd_nxt;
	c->timed_at = c->net->now;
}

/* Sends the next segment of the stream, if windows allow. */
static bool send_next(struct tcp_connection *c)
{
	uint32_t offset = c->snd_nxt - c->snd_una;
	uint32_t window = min(c->snd_wnd, c->cwnd);
	uint32_t room = window > offset ? window - offset : 0;
	uint32_t unsent, length;
	bool fin, push;

	if (offset > c->send_length)
		return false; /* the FIN is out */
	unsent = c->send_length - offset;
	length = min(unsent, min(room, c->mss));
	fin = c->fin_queued & (length == unsent) & (c->snd_wnd > offset + length);
	if ((length == 0) & !fin)
		return false;
	/* Rather wait for an ACK than cut a segment short (RFC 9293 3.8.6.2.1). */
	if ((length < c->mss) & (length < unsent) & (offset > 0))
		return false;
	start_timing(c);
	c->net->counters.tcp_retransmits += c->snd_nxt != c->snd_max;
	push = (length > 0) & (length == unsent);
	send_stream(c, c->snd_nxt, length, (uint8_t)(PSH * push | FIN * fin));
	c->snd_nxt += length + fin;
	sent(c, c->snd_nxt);
	return true;
}

void tcp_output(struct tcp_connection *c)
{
	bool pending;

	tcp_window_update(c);
	if ((c->state != TCP_SYN_RECEIVED) & !c->fin_acked) {
		/* After a pause the window tells of a network long gone (RFC 5681 4.1). */
		if ((c->snd_una == c->snd_max) & (c->net->now - c->sent_at > c->rto))
			c->cwnd = min(c->cwnd, 10u * c->mss);
		while (send_next(c))
			;
		pending = (c->send_length > 0) | c->fin_queued;
		if (pending & (c->retransmit_at == PLATFORM_NEVER))
			c->retransmit_at = c->net->now + tcp_rto(c); /* to probe the window */
	}
	if (c->ack_due)
		tcp_send_ack(c);
}

void tcp_retransmit_first(struct tcp_connection *c)
{
	uint32_t out = c->snd_max - c->snd_una;
	uint32_t length = min(min(out, c->send_length), c->mss);
	bool fin = c->fin_queued && length == c->send_length && out > length;

	if (out == 0)
		return;
	c->timing = false;
	c->net->counters.tcp_retransmits++;
	send_stream(c, c->snd_una, length, fin ? FIN : 0);
}

/* One byte, or the FIN, beyond a closed window (RFC 9293 3.8.6.1). */
void tcp_probe(struct tcp_connection *c)
{
	bool text = c->send_length > 0;

	c->timing = false;
	send_stream(c, c->snd_una, text ? 1 : 0, text ? 0 : FIN);
	sent(c, c->snd_una + 1);
}
