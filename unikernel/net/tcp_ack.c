/* SPDX-License-Identifier: ISC */
/*
 * What an acknowledgement says about our sending: bytes that arrived, the room
 * the peer has, and, by its absence or repetition, the state of the network
 * (RFC 5681 slow start and congestion avoidance, RFC 6582 NewReno).
 */
#include "net.h"

#define DUPLICATES 3
/* Beyond what our send buffer can ever fill there is nothing to gain. */
#define CWND_MAX (4 * TCP_SEND_BUFFER)

static uint32_t initial_window(const struct tcp_connection *c)
{
	return min(10u * c->mss, max(2u * c->mss, 14600u)); /* RFC 6928 2 */
}

void tcp_congestion_init(struct tcp_connection *c)
{
	c->cwnd = initial_window(c);
	c->ssthresh = CWND_MAX;
	c->rto = 1 * SECOND; /* RFC 6298 2.1 */
}

static void grow(struct tcp_connection *c, uint32_t acked)
{
	if (c->cwnd < c->ssthresh)
		c->cwnd += min(acked, c->mss);
	else
		c->cwnd += max(1u, (uint32_t)c->mss * c->mss / c->cwnd);
	c->cwnd = min(c->cwnd, CWND_MAX);
}

/* A partial ACK shows the next hole; a full one ends the recovery (RFC 6582 3.2). */
static void recover(struct tcp_connection *c, uint32_t acked)
{
	uint32_t flight = c->snd_max - c->snd_una;

	if (seq_upto(c->recover, c->snd_una)) {
		c->recovering = false;
		c->cwnd = min(c->ssthresh, max(flight, c->mss) + c->mss);
		return;
	}
	c->cwnd = max(c->cwnd - min(acked, c->cwnd), c->mss);
	if (acked >= c->mss)
		c->cwnd += c->mss;
	tcp_retransmit_first(c);
}

static void duplicate_ack(struct tcp_connection *c)
{
	uint32_t flight = c->snd_max - c->snd_una;

	if (c->recovering) {
		c->cwnd = min(c->cwnd + c->mss, CWND_MAX); /* another one has left the network */
		return;
	}
	if (c->duplicate_acks < DUPLICATES)
		c->duplicate_acks++;
	/* Below `recover` they are echoes of what a time-out sent again. */
	if (c->duplicate_acks < DUPLICATES || seq_before(c->snd_una, c->recover))
		return;
	c->duplicate_acks = 0;
	c->recovering = true;
	c->recover = c->snd_max;
	c->ssthresh = max(flight / 2, 2u * c->mss);
	c->cwnd = c->ssthresh + DUPLICATES * c->mss;
	tcp_retransmit_first(c);
}

static void new_ack(struct tcp_connection *c, uint32_t ack)
{
	uint32_t acked = ack - c->snd_una;
	uint32_t bytes = min(acked, c->send_length);

	if (c->timing && seq_before(c->timed_seq, ack)) {
		c->timing = false;
		tcp_rtt_sample(c, c->net->now - c->timed_at);
	}
	c->send_start = (c->send_start + bytes) % TCP_SEND_BUFFER;
	c->send_length -= bytes;
	c->fin_acked = acked > bytes; /* beyond the text there is only the FIN */
	c->snd_una = ack;
	if (seq_before(c->snd_nxt, ack))
		c->snd_nxt = ack; /* after a time-out: the receiver had these all along */
	c->backoff = 0;
	c->attempts = 0;
	c->duplicate_acks = 0;
	if (c->recovering)
		recover(c, acked);
	else
		grow(c, acked);
	c->retransmit_at = c->snd_una == c->snd_max ? PLATFORM_NEVER : c->net->now + tcp_rto(c);
	if (c->closed_by_app && c->state != TCP_FIN_WAIT_2 && c->state != TCP_TIME_WAIT)
		tcp_enter(c, c->state); /* an orphan that gets on may take its time */
}

/* RFC 9293 3.10.7.4: only by segments that are not older than the last update. */
static bool update_window(struct tcp_connection *c, const struct tcp_segment *segment)
{
	uint32_t before = c->snd_wnd;
	bool newer = seq_before(c->snd_wl1, segment->seq) |
		     ((c->snd_wl1 == segment->seq) & seq_upto(c->snd_wl2, segment->ack));

	if (!newer)
		return false;
	c->snd_wnd = (uint32_t)segment->window << c->snd_shift;
	c->snd_wl1 = segment->seq;
	c->snd_wl2 = segment->ack;
	c->snd_wnd_max = max(c->snd_wnd_max, c->snd_wnd);
	if ((before == 0) & (c->snd_wnd > 0)) { /* end of probing */
		c->backoff = 0;
		c->snd_nxt = c->snd_una;
		c->retransmit_at = PLATFORM_NEVER;
	}
	return c->snd_wnd != before;
}

void tcp_ack_input(struct tcp_connection *c, const struct tcp_segment *segment)
{
	bool changed = update_window(c, segment);

	if (c->snd_wnd == 0)
		c->attempts = 0; /* the peer lives: it may keep us waiting (RFC 1122 4.2.2.17) */
	if (seq_before(c->snd_una, segment->ack))
		new_ack(c, segment->ack);
	else if ((segment->ack == c->snd_una) & (c->snd_una != c->snd_max) & !changed &
		 (segment->length == 0) & ((segment->flags & FIN) == 0))
		duplicate_ack(c);
}
