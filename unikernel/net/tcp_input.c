/* SPDX-License-Identifier: ISC */
/*
 * A segment for a connection we know: RFC 9293 3.10.7.4, step by step. Nearly all
 * segments pass the first five steps at a glance ("header prediction", as Jacobson
 * called it); examine() is for the others.
 */
#include "net.h"

/* Longer than a host takes to pass on what it still had for us; the peer has all and is gone. */
#define STRAGGLERS (SECOND / 10)

static uint32_t segment_length(const struct tcp_segment *segment)
{
	return segment->length + ((segment->flags & FIN) != 0);
}

/*
 * Step 1. Any overlap with the window will do. Two cases go beyond the RFC's
 * table: a bare ACK may stand just past the window, where a peer that filled it
 * and lost a segment sends it from; and with no window at all, data at its edge
 * is let in for its ACK alone (the RFC's "special allowance").
 */
static bool is_acceptable(const struct tcp_connection *c, const struct tcp_segment *segment)
{
	uint32_t length = segment_length(segment);

	if (length == 0)
		return segment->seq - c->rcv_nxt <= tcp_receive_window(c);
	if (tcp_receive_window(c) == 0)
		return segment->seq == c->rcv_nxt;
	return seq_before(segment->seq, c->rcv_edge) &&
	       seq_before(c->rcv_nxt, segment->seq + length);
}

static void not_acceptable(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (c->state == TCP_TIME_WAIT && (segment->flags & FIN) != 0)
		tcp_enter(c, TCP_TIME_WAIT); /* our last ACK was lost: wait anew */
	/*
	 * A repeated segment or a zero-window probe wants its answer each time. A
	 * bare ACK does too (keep-alive), but two ends out of step would send each
	 * other such for ever: so that is limited.
	 */
	if (segment_length(segment) > 0)
		tcp_send_ack(c);
	else
		tcp_challenge_ack(c);
}

/* Step 2, as changed by RFC 5961 3.2. */
static void reset_input(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (c->state == TCP_TIME_WAIT)
		return; /* RFC 1337: else an old reset would end the wait */
	if (segment->seq == c->rcv_nxt)
		tcp_release(c);
	else if (segment->seq - c->rcv_nxt < tcp_receive_window(c))
		tcp_challenge_ack(c);
}

/* Step 5, first half: is this an ACK the peer could have sent? */
static bool ack_is_sound(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (c->state == TCP_SYN_RECEIVED) {
		if (seq_before(c->snd_una, segment->ack) && seq_upto(segment->ack, c->snd_max))
			return true;
		tcp_send_reset(c->net, segment);
		return false;
	}
	if (seq_upto(segment->ack, c->snd_max) &&
	    seq_upto(c->snd_una - c->snd_wnd_max, segment->ack))
		return true;
	tcp_challenge_ack(c); /* RFC 5961 5.2 */
	return false;
}

/* Our FIN is acknowledged. */
static void fin_acked(struct tcp_connection *c)
{
	switch (c->state) {
	case TCP_FIN_WAIT_1:
		tcp_enter(c, TCP_FIN_WAIT_2);
		break;
	case TCP_CLOSING:
		tcp_enter(c, TCP_TIME_WAIT);
		break;
	case TCP_LAST_ACK:
		/* It is over. An ACK that has come late draws no reset from who still knows it. */
		tcp_enter(c, TCP_TIME_WAIT);
		c->expires_at = c->net->now + STRAGGLERS;
		break;
	default:
		break;
	}
}

/* Step 8: the peer's FIN, once all before it is here. */
static void take_fin(struct tcp_connection *c)
{
	if (!c->fin_seen || c->fin_taken || c->rcv_nxt != c->fin_seq)
		return;
	c->fin_taken = true;
	c->rcv_nxt++;
	if (seq_before(c->rcv_edge, c->rcv_nxt))
		c->rcv_edge = c->rcv_nxt;
	switch (c->state) {
	case TCP_ESTABLISHED:
		tcp_enter(c, TCP_CLOSE_WAIT);
		break;
	case TCP_FIN_WAIT_1:
		tcp_enter(c, TCP_CLOSING);
		break;
	case TCP_FIN_WAIT_2:
		tcp_enter(c, TCP_TIME_WAIT);
		break;
	default:
		break;
	}
}

/* Step 7: the text, and the note that a FIN follows it. */
static void text_input(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (segment_length(segment) == 0)
		return;
	c->ack_due = true;
	/* Without a window nothing is taken, not even the FIN: it will come again. */
	if ((tcp_receive_window(c) == 0) | c->fin_taken)
		return;
	if (((segment->flags & FIN) != 0) & !c->fin_seen) {
		c->fin_seen = true;
		c->fin_seq = segment->seq + segment->length;
	}
	tcp_receive_data(c, segment->seq, segment->data, segment->length);
	if (c->closed_by_app)
		tcp_consume(c, c->receive_length);
	take_fin(c);
}

/*
 * True of a segment that steps 1 to 5 have nothing against: an ACK of something
 * that is out, or of nothing new, all of it within the window. False decides nothing.
 */
static bool is_ordinary(const struct tcp_connection *c, const struct tcp_segment *segment)
{
	uint64_t end = (uint64_t)(segment->seq - c->rcv_nxt) + segment_length(segment);
	uint32_t out = c->snd_max - c->snd_una;
	uint32_t acked = segment->ack - c->snd_una;
	uint32_t least = c->state == TCP_SYN_RECEIVED; /* of our SYN */

	return ((segment->flags & (SYN | RST | ACK)) == ACK) & (end <= tcp_receive_window(c)) &
	       (acked >= least) & (acked <= out);
}

/* Steps 1 to 5 for all others; true if the segment is to be processed further. */
static bool examine(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (c->state == TCP_SYN_RECEIVED && segment->flags == SYN && segment->seq == c->irs) {
		c->timing = false; /* whose answer comes back cannot be told */
		tcp_send_syn_ack(c);
		return false;
	}
	if ((segment->flags & RST) != 0) {
		reset_input(c, segment);
		return false;
	}
	if ((segment->flags & SYN) != 0) {
		tcp_challenge_ack(c); /* RFC 5961 4.2, wherever in the window it is */
		return false;
	}
	if (!is_acceptable(c, segment)) {
		not_acceptable(c, segment);
		return false;
	}
	return (segment->flags & ACK) != 0 && ack_is_sound(c, segment);
}

void tcp_segment_input(struct tcp_connection *c, const struct tcp_segment *segment)
{
	if (!is_ordinary(c, segment) && !examine(c, segment))
		return;
	memcpy(c->peer.ends.mac, segment->peer.ends.mac, MAC_SIZE);
	if (c->state == TCP_SYN_RECEIVED)
		tcp_established(c, segment);
	else
		tcp_ack_input(c, segment);
	if (c->fin_acked)
		fin_acked(c);
	if (c->state != TCP_FREE)
		text_input(c, segment);
	if ((c->state == TCP_ESTABLISHED) | (c->state == TCP_CLOSE_WAIT))
		tcp_event(c, TCP_READY);
	if (c->state != TCP_FREE)
		tcp_output(c);
}
