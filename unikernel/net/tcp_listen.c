/* SPDX-License-Identifier: ISC */
/* Segments that belong to no connection (RFC 9293 3.10.7.1 and .2). */
#include "net.h"

/*
 * The part of the table for half-open connections; more of them get cookies. A
 * burst of honest clients fits; a flood leaves three quarters to the others.
 */
#define TCP_HALF_OPEN_PART 4
/* So long after the last one an ACK may still bring a cookie back. */
#define TCP_COOKIE_LIFE (128 * SECOND)

/* RFC 9293 3.7.1: where the peer names none. */
#define MSS_DEFAULT_IPV4 536
#define MSS_DEFAULT_IPV6 1220
#define MSS_MIN 48 /* a peer that names less would have us send headers only */

void tcp_listen(struct net *net, uint16_t port, tcp_handler *handler, void *app)
{
	for (int i = 0; i < TCP_LISTENERS; i++) {
		struct tcp_listener *listener = &net->tcp.listener[i];

		if (listener->port == 0) {
			*listener = (struct tcp_listener){ port, handler, app };
			return;
		}
	}
	__builtin_trap(); /* TCP_LISTENERS is too small for what was built in */
}

const struct tcp_listener *tcp_find_listener(struct net *net, uint16_t port)
{
	for (int i = 0; i < TCP_LISTENERS; i++)
		if (net->tcp.listener[i].port == port)
			return &net->tcp.listener[i];
	return NULL;
}

uint16_t tcp_offered_mss(const struct tcp_segment *syn)
{
	bool v4 = ip_is_v4(syn->peer.ends.theirs);
	uint16_t otherwise = v4 ? MSS_DEFAULT_IPV4 : MSS_DEFAULT_IPV6;

	return syn->mss == 0 ? otherwise : syn->mss;
}

void tcp_set_mss(struct tcp_connection *c, uint16_t offered)
{
	uint16_t ours = tcp_mss(c->net, c->peer.ends.theirs);

	offered = max(offered, MSS_MIN);
	c->mss = min(offered, ours);
}

void tcp_open_sequences(struct tcp_connection *c, uint32_t iss, uint32_t irs)
{
	c->iss = c->snd_una = c->recover = iss;
	c->snd_nxt = c->snd_max = iss + 1;
	c->irs = irs;
	c->rcv_nxt = irs + 1;
	c->rcv_edge = c->rcv_nxt + TCP_RECEIVE_BUFFER;
}

static void syn_input(struct net *net, const struct tcp_listener *listener,
		      const struct tcp_segment *segment)
{
	struct tcp_connection *c;

	if (net->tcp.half_open >= net->tcp.capacity / TCP_HALF_OPEN_PART) {
		net->tcp.cookies_until = net->now + TCP_COOKIE_LIFE;
		net->counters.tcp_cookies++;
		tcp_send_cookie(net, segment, tcp_cookie(net, segment));
		return;
	}
	c = tcp_claim(net, segment);
	if (c == NULL) {
		net->counters.tcp_refused++; /* the peer asks again; maybe there is room then */
		return;
	}
	c->listener = listener;
	tcp_enter(c, TCP_SYN_RECEIVED);
	tcp_open_sequences(c, tcp_new_iss(net, &segment->peer), segment->seq);
	tcp_set_mss(c, tcp_offered_mss(segment));
	if (segment->window_shift >= 0) {
		c->shift_offered = true;
		c->snd_shift = (uint8_t)segment->window_shift;
	}
	tcp_congestion_init(c);
	tcp_send_syn_ack(c);
}

/* The ACK of a handshake that we kept no state of: it brings all of it back. */
static bool cookie_input(struct net *net, const struct tcp_listener *listener,
			 const struct tcp_segment *segment)
{
	struct tcp_connection *c;
	uint16_t mss;

	if (net->now >= net->tcp.cookies_until || !tcp_cookie_check(net, segment, &mss))
		return false;
	c = tcp_claim(net, segment);
	if (c == NULL)
		return false;
	c->listener = listener;
	tcp_enter(c, TCP_SYN_RECEIVED);
	tcp_open_sequences(c, segment->ack - 1, segment->seq - 1);
	tcp_set_mss(c, mss);
	tcp_congestion_init(c);
	tcp_segment_input(c, segment);
	return true;
}

void tcp_listen_input(struct net *net, const struct tcp_segment *segment)
{
	const struct tcp_listener *listener = tcp_find_listener(net, segment->peer.local_port);

	if (listener != NULL && (segment->flags & (SYN | ACK | FIN | RST)) == SYN) {
		syn_input(net, listener, segment);
		return;
	}
	if ((segment->flags & RST) != 0)
		return;
	if (listener != NULL) {
		if ((segment->flags & (SYN | ACK)) == ACK && cookie_input(net, listener, segment))
			return;
		/* SYN with FIN is no handshake; neither SYN nor ACK is nothing at all. */
		if ((segment->flags & ACK) == 0)
			return;
	}
	tcp_send_reset(net, segment);
}

void tcp_established(struct tcp_connection *c, const struct tcp_segment *segment)
{
	tcp_enter(c, TCP_ESTABLISHED);
	c->net->counters.tcp_accepted++;
	c->snd_una = c->iss + 1;
	c->snd_wnd = (uint32_t)segment->window << c->snd_shift;
	c->snd_wnd_max = c->snd_wnd;
	c->snd_wl1 = segment->seq;
	c->snd_wl2 = segment->ack;
	c->retransmit_at = PLATFORM_NEVER;
	if (c->timing) /* no retransmission: Karn's rule */
		tcp_rtt_sample(c, c->net->now - c->timed_at);
	else if (c->attempts > 0)
		c->rto = 3 * SECOND; /* RFC 6298 5.7: the first one was wrong, so be careful */
	c->timing = false;
	c->attempts = 0;
	c->backoff = 0;
	tcp_event(c, TCP_OPENED);
}
