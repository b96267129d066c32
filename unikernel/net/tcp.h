/* SPDX-License-Identifier: ISC */
/*
 * TCP: what apps call, and the state that the tcp_*.c files share.
 * The theory of operation is at the top of tcp.c.
 */
#ifndef TCP_H
#define TCP_H

#include "ip.h"

struct net;
struct packet;
struct tcp_connection;

/* Connections at a time: as many as there is memory for, but a segment walks them all. */
#define TCP_CONNECTIONS_MAX 1024
/* With fewer a browser or two fill the table: such a guest does not start. */
#define TCP_CONNECTIONS_MIN 64
/* Eleven full segments in flight: a LAN's delay times 100 Mbit/s, and IW10 whole. */
#define TCP_SEND_BUFFER 16384
/* Our window. Requests are small; an upload needs no more on a LAN. */
#define TCP_RECEIVE_BUFFER 8192
/* Gaps a reordered stream may have before further islands are dropped. */
#define TCP_ISLANDS 8
/* Listeners: HTTP, and room for a second service. */
#define TCP_LISTENERS 2

struct tcp_peer {
	struct ip_ends ends;
	uint16_t port, local_port;
};

/* -- For apps -- */

enum tcp_event {
	TCP_OPENED, /* the handshake is complete; comes once, before all others */
	TCP_READY,  /* bytes came, room to send came, or the peer's end */
	TCP_DEADLINE /* the time of tcp_set_deadline() has come */
};

/*
 * An app is one function. It may call anything below on `connection` within the
 * call, and nothing outside of one. No event follows tcp_close() or tcp_abort(),
 * nor the end by a reset or by time: an app keeps nothing that needs undoing.
 */
typedef void tcp_handler(void *app, struct tcp_connection *connection, enum tcp_event event);

/*
 * Gives TCP the memory for that many connections, TCP_FOOTPRINT bytes for each. It
 * is filled with zeros, and stays untouched until a connection needs its part.
 */
void tcp_init(struct net *net, void *memory, unsigned connections);
void tcp_listen(struct net *net, uint16_t port, tcp_handler *handler, void *app);

/* The place of the connection in the table: 0 .. net->tcp.capacity - 1. */
unsigned tcp_index(const struct tcp_connection *connection);
uint64_t tcp_now(const struct tcp_connection *connection);

/* Bytes received and not yet consumed, in one piece; good until tcp_consume(). */
const uint8_t *tcp_peek(const struct tcp_connection *connection, size_t *length);
void tcp_consume(struct tcp_connection *connection, size_t length);
/* True once the peer's FIN came and all before it is in tcp_peek(). */
bool tcp_peer_finished(const struct tcp_connection *connection);

size_t tcp_room(const struct tcp_connection *connection);
/* Queues up to `length` bytes; returns how many there was room for. */
size_t tcp_write(struct tcp_connection *connection, const void *data, size_t length);
/* What is queued will be sent, then FIN. What still comes is taken and thrown away. */
void tcp_close(struct tcp_connection *connection);
void tcp_abort(struct tcp_connection *connection);
/* One per connection; UINT64_MAX for none. */
void tcp_set_deadline(struct tcp_connection *connection, uint64_t when);

/* A connection that was opened for us, up to the client's first byte. */
struct tcp_import {
	struct tcp_peer peer;
	uint32_t iss, irs;
	uint32_t snd_wnd; /* in bytes */
	uint16_t mss;
	uint8_t snd_shift;
	bool established; /* the client has acknowledged our SYN-ACK */
};

/* Goes on with it; NULL if nobody listens or there is no room: then the client knows. */
struct tcp_connection *tcp_import(struct net *net, const struct tcp_import *flow);
/* The next that the client has sent, and FIN if it is `finished`. May end the connection. */
void tcp_import_data(struct tcp_connection *c, const struct tcp_peer *peer, struct slice data,
		     bool finished);

/* -- Between the tcp_*.c files -- */

/* LISTEN is a struct tcp_listener; SYN_SENT does not exist: we never call out. */
enum tcp_state {
	TCP_FREE,
	TCP_SYN_RECEIVED,
	TCP_ESTABLISHED,
	TCP_FIN_WAIT_1,
	TCP_FIN_WAIT_2,
	TCP_CLOSE_WAIT,
	TCP_CLOSING,
	TCP_LAST_ACK,
	TCP_TIME_WAIT
};

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

#define TCP_HEADER 20

struct tcp_segment {
	struct tcp_peer peer; /* who sent it */
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	const uint8_t *data;
	uint32_t length;
	uint16_t mss;     /* 0: no such option */
	int window_shift; /* -1: no such option */
};

struct tcp_listener {
	uint16_t port; /* 0: none */
	tcp_handler *handler;
	void *app;
};

/* A run of bytes received ahead of a gap. */
struct tcp_island {
	uint32_t start, end;
};

/* Variables have the names of RFC 9293 3.3.1, RFC 6298 and RFC 5681. */
struct tcp_connection {
	struct net *net;
	enum tcp_state state;
	struct tcp_peer peer;
	const struct tcp_listener *listener;

	uint32_t iss, snd_una, snd_nxt;
	uint32_t snd_max; /* the highest snd_nxt ever; snd_nxt goes back on a time-out */
	uint32_t snd_wnd, snd_wl1, snd_wl2;
	uint32_t snd_wnd_max; /* RFC 5961 5.2: the largest window the peer ever offered */
	uint8_t snd_shift;
	bool shift_offered; /* the SYN had a window scale, so our SYN-ACK has one */
	bool fin_queued;
	bool fin_acked;
	uint16_t mss;
	uint32_t send_start, send_length; /* the ring of bytes from snd_una on */

	uint32_t cwnd, ssthresh, recover;
	uint8_t duplicate_acks;
	bool recovering;

	uint64_t srtt, rttvar, rto;
	bool timing;
	uint32_t timed_seq;
	uint64_t timed_at, sent_at;
	uint8_t backoff, attempts;

	uint32_t irs, rcv_nxt;
	uint32_t rcv_edge; /* the right edge of the window we told the peer: never moves back */
	uint32_t receive_length;
	uint8_t islands;
	struct tcp_island island[TCP_ISLANDS];
	bool fin_seen, fin_taken;
	uint32_t fin_seq;
	bool ack_due, closed_by_app;
	uint64_t challenge_after;

	/* UINT64_MAX: not running. */
	uint64_t retransmit_at; /* also the persist timer and the SYN-ACK's */
	uint64_t expires_at;    /* FIN_WAIT_2, TIME_WAIT, and the end of an orphan */
	uint64_t deadline;      /* the app's */
	uint64_t since;         /* when it entered its state */
};

/*
 * Both together, so that the first connection touches memory near what the boot has touched: a
 * host that backs a guest by huge pages clears two megabytes at the first touch of each.
 */
struct tcp_buffers {
	uint8_t receive[TCP_RECEIVE_BUFFER];
	uint8_t send[TCP_SEND_BUFFER];
};

struct tcp {
	struct tcp_listener listener[TCP_LISTENERS];
	unsigned capacity;
	unsigned used;      /* every connection at or above this index is free */
	unsigned half_open; /* connections in SYN_RECEIVED */
	uint64_t cookies_until; /* when the last cookie that went out is stale */
	/* Arrays of `capacity` elements. */
	struct tcp_connection *connection;
	struct tcp_buffers *buffers;
};

#define TCP_FOOTPRINT (sizeof(struct tcp_connection) + sizeof(struct tcp_buffers))

/* Sequence numbers wrap: compare differences (RFC 9293 3.4). */
static inline bool seq_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_upto(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) <= 0;
}

/* tcp.c */
struct tcp_connection *tcp_claim(struct net *net, const struct tcp_segment *segment);
void tcp_release(struct tcp_connection *c);
void tcp_enter(struct tcp_connection *c, enum tcp_state state);
void tcp_event(struct tcp_connection *c, enum tcp_event event);
void tcp_reset_connection(struct tcp_connection *c);

/* tcp_listen.c */
const struct tcp_listener *tcp_find_listener(struct net *net, uint16_t port);
void tcp_set_mss(struct tcp_connection *c, uint16_t offered);
void tcp_open_sequences(struct tcp_connection *c, uint32_t iss, uint32_t irs);
/* What the SYN says that its sender takes, or else what its family says. */
uint16_t tcp_offered_mss(const struct tcp_segment *syn);
void tcp_listen_input(struct net *net, const struct tcp_segment *segment);
void tcp_established(struct tcp_connection *c, const struct tcp_segment *segment);

/* tcp_input.c */
void tcp_segment_input(struct tcp_connection *c, const struct tcp_segment *segment);

/* tcp_ack.c: what an acknowledgement means for sending */
void tcp_ack_input(struct tcp_connection *c, const struct tcp_segment *segment);
void tcp_congestion_init(struct tcp_connection *c);

/* tcp_receive.c: the receive buffer */
uint32_t tcp_receive_window(const struct tcp_connection *c);
void tcp_receive_data(struct tcp_connection *c, uint32_t seq, const uint8_t *data, uint32_t length);
void tcp_window_update(struct tcp_connection *c);

/* tcp_output.c */
void tcp_output(struct tcp_connection *c);
void tcp_send_syn_ack(struct tcp_connection *c);
void tcp_send_ack(struct tcp_connection *c);
void tcp_challenge_ack(struct tcp_connection *c);
void tcp_retransmit_first(struct tcp_connection *c);
void tcp_probe(struct tcp_connection *c);
void tcp_send_cookie(struct net *net, const struct tcp_segment *segment, uint32_t iss);
void tcp_send_reset(struct net *net, const struct tcp_segment *segment);

/* tcp_timer.c */
void tcp_timers(struct tcp_connection *c);
uint64_t tcp_rto(const struct tcp_connection *c);
void tcp_rtt_sample(struct tcp_connection *c, uint64_t rtt);

/* tcp_cookie.c */
uint32_t tcp_new_iss(const struct net *net, const struct tcp_peer *peer);
uint32_t tcp_cookie(const struct net *net, const struct tcp_segment *syn);
/* True if segment acknowledges a cookie of ours; then *mss is what the SYN offered. */
bool tcp_cookie_check(const struct net *net, const struct tcp_segment *segment, uint16_t *mss);

#endif
