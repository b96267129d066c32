/* SPDX-License-Identifier: ISC */
/*
 * Connections that somebody else has opened for us (the host's Synjitsu), to go on with.
 *
 * What the client sent before is fed to the connection as the segments it might have come in,
 * so that all that follows from them happens in the one place where it always does.
 */
#include "net.h"

struct tcp_connection *tcp_import(struct net *net, const struct tcp_import *flow)
{
	/* The one that would complete the handshake. */
	const struct tcp_segment ack = {
		.peer = flow->peer,
		.seq = flow->irs + 1,
		.ack = flow->iss + 1,
		.flags = ACK,
		.window = (uint16_t)min(flow->snd_wnd >> flow->snd_shift, 0xffffu),
	};
	const struct tcp_listener *listener = tcp_find_listener(net, flow->peer.local_port);
	struct tcp_connection *c = listener == NULL ? NULL : tcp_claim(net, &ack);

	if (c == NULL) {
		tcp_send_reset(net, &ack);
		return NULL;
	}
	c->listener = listener;
	tcp_enter(c, TCP_SYN_RECEIVED);
	tcp_open_sequences(c, flow->iss, flow->irs);
	tcp_set_mss(c, flow->mss);
	c->snd_shift = flow->snd_shift;
	c->shift_offered = flow->snd_shift > 0;
	tcp_congestion_init(c);
	c->retransmit_at = net->now + tcp_rto(c); /* of the SYN-ACK, which is out already */
	if (flow->established)
		tcp_established(c, &ack);
	return c;
}

void tcp_import_data(struct tcp_connection *c, const struct tcp_peer *peer, struct slice data,
		     bool finished)
{
	const struct tcp_segment segment = {
		.peer = *peer,
		.seq = c->rcv_nxt,
		.ack = c->snd_una,
		.flags = (uint8_t)(ACK | FIN * finished),
		.window = (uint16_t)min(c->snd_wnd >> c->snd_shift, 0xffffu),
		.data = (const uint8_t *)data.start,
		.length = (uint32_t)data.length,
	};

	/* What was read before may have ended it, and its place may be another's. */
	if (c->state != TCP_FREE && ip_equal(c->peer.ends.theirs, peer->ends.theirs) &&
	    c->peer.port == peer->port && c->peer.local_port == peer->local_port)
		tcp_segment_input(c, &segment);
}
