/* SPDX-License-Identifier: ISC */
/*
 * Initial sequence numbers nobody can guess (RFC 6528), and SYN cookies
 * (RFC 4987 3.6): initial sequence numbers that carry the half-open connection.
 *
 *	31    27 26 24 23                                0
 *	| period | mss |  keyed hash of all of it         |
 *
 * A cookie is good in its period of 64 s and the next. Guessing one is a matter
 * of 2^24 tries for each 128 s and only opens a connection, as anybody may.
 */
#include "net.h"

#define PERIOD (64 * SECOND)
#define HASH_MASK 0xffffffu

/* The sizes a cookie can remember: the largest not above the offer is used. */
static const uint16_t mss_table[8] = { 48, 256, 536, 1024, 1200, 1360, 1440, 1460 };

static uint64_t tuple_hash(const struct net *net, const struct tcp_peer *peer, uint32_t irs,
			   uint32_t period)
{
	const struct ip_ends *ends = &peer->ends;
	const uint64_t words[6] = {
		ends->theirs.word[0],
		ends->theirs.word[1],
		ends->ours.word[0],
		ends->ours.word[1],
		(uint64_t)peer->port << 16 | peer->local_port,
		(uint64_t)irs << 32 | period,
	};

	return siphash(net->key, words, 6);
}

uint32_t tcp_new_iss(const struct net *net, const struct tcp_peer *peer)
{
	/* A clock of 4 us steps plus a secret offset for each pair of ends. */
	return (uint32_t)(net->now / 4000 + tuple_hash(net, peer, 0, UINT32_MAX));
}

static uint32_t make_cookie(const struct net *net, const struct tcp_peer *peer, uint32_t irs,
			    uint32_t period, uint32_t mss_index)
{
	uint64_t hash = tuple_hash(net, peer, irs, period << 3 | mss_index);

	return (period & 31) << 27 | mss_index << 24 | (uint32_t)(hash & HASH_MASK);
}

uint32_t tcp_cookie(const struct net *net, const struct tcp_segment *syn)
{
	uint32_t index = 7;
	uint16_t mss = tcp_offered_mss(syn);

	while (index > 0 && mss_table[index] > mss)
		index--;
	return make_cookie(net, &syn->peer, syn->seq, (uint32_t)(net->now / PERIOD), index);
}

bool tcp_cookie_check(const struct net *net, const struct tcp_segment *segment, uint16_t *mss)
{
	uint32_t cookie = segment->ack - 1;
	uint32_t now = (uint32_t)(net->now / PERIOD);
	uint32_t age = (now - (cookie >> 27)) & 31;
	uint32_t index = cookie >> 24 & 7;

	if (age > 1 || age > now)
		return false;
	*mss = mss_table[index];
	return cookie == make_cookie(net, &segment->peer, segment->seq - 1, now - age, index);
}
