/* SPDX-License-Identifier: ISC */
/* What happens by itself: retransmission (RFC 6298), persist, and ends. */
#include "net.h"

/* RFC 6298 2.4 says one second, for clocks of 1988; 200 ms is what the field uses. */
#define RTO_MIN (200 * MS)
#define RTO_MAX (60 * SECOND)
/*
 * As many as Linux makes (tcp_retries2). 0.2 s doubled, at most 60 s each, comes to
 * almost nine minutes; RFC 1122 4.2.3.5 asks for 100 s at least.
 */
#define ATTEMPTS_MAX 15
/* 1 + 2 + 4 + 8 + 16 s: a client has asked again four times by then. */
#define SYN_ACK_ATTEMPTS_MAX 4
/* From here on the next hop may have moved: ask for it. */
#define ATTEMPTS_BEFORE_ASKING 2

void tcp_rtt_sample(struct tcp_connection *c, uint64_t rtt)
{
	if (c->srtt == 0) {
		c->srtt = max(rtt, 1);
		c->rttvar = rtt / 2;
	} else {
		uint64_t error = c->srtt > rtt ? c->srtt - rtt : rtt - c->srtt;

		c->rttvar = c->rttvar - c->rttvar / 4 + error / 4;
		c->srtt = max(c->srtt - c->srtt / 8 + rtt / 8, 1);
	}
	c->rto = max(c->srtt + 4 * c->rttvar, RTO_MIN);
	c->rto = min(c->rto, RTO_MAX);
}

uint64_t tcp_rto(const struct tcp_connection *c)
{
	return min(c->rto << min(c->backoff, 9), RTO_MAX);
}

static void reroute(struct tcp_connection *c)
{
	const uint8_t *mac;

	if (c->attempts < ATTEMPTS_BEFORE_ASKING)
		return;
	mac = neighbour_resolve(c->net, c->peer.ends.theirs);
	if (mac != NULL)
		memcpy(c->peer.ends.mac, mac, MAC_SIZE);
}

static void syn_ack_timeout(struct tcp_connection *c)
{
	if (c->attempts > SYN_ACK_ATTEMPTS_MAX) {
		tcp_release(c); /* silently: most likely nobody ever was there */
		return;
	}
	c->timing = false;
	c->retransmit_at = c->net->now + tcp_rto(c);
	tcp_send_syn_ack(c);
}

/* Back to the first unacknowledged byte, slowly (RFC 5681 3.1, RFC 6298 5.4-5.6). */
static void go_back(struct tcp_connection *c)
{
	if (c->attempts == 1)
		c->ssthresh = max((c->snd_max - c->snd_una) / 2, 2u * c->mss);
	c->cwnd = c->mss;
	c->recovering = false;
	c->duplicate_acks = 0;
	c->recover = c->snd_max;
	c->timing = false;
	c->snd_nxt = c->snd_una;
	tcp_output(c);
}

static void retransmit_timeout(struct tcp_connection *c)
{
	c->retransmit_at = PLATFORM_NEVER;
	c->attempts++;
	if (c->backoff < UINT8_MAX)
		c->backoff++;
	c->net->counters.tcp_timeouts++;
	reroute(c);
	if (c->state == TCP_SYN_RECEIVED)
		syn_ack_timeout(c);
	else if (c->attempts > ATTEMPTS_MAX)
		tcp_reset_connection(c);
	else if (c->snd_wnd == 0)
		tcp_probe(c);
	else
		go_back(c);
}

static void expire(struct tcp_connection *c)
{
	/* In these two the peer owes nothing but its FIN, and gets nothing but silence. */
	if (c->state == TCP_TIME_WAIT || c->state == TCP_FIN_WAIT_2)
		tcp_release(c);
	else
		tcp_reset_connection(c);
}

void tcp_timers(struct tcp_connection *c)
{
	uint64_t now = c->net->now;

	if (now >= c->expires_at) {
		expire(c);
		return;
	}
	if (now >= c->retransmit_at)
		retransmit_timeout(c);
	if (c->state == TCP_FREE || now < c->deadline)
		return;
	c->deadline = PLATFORM_NEVER;
	tcp_event(c, TCP_DEADLINE);
	if (c->state != TCP_FREE)
		tcp_output(c);
}
