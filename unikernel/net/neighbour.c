/* SPDX-License-Identifier: ISC */
/*
 * The neighbours that we asked for, by ARP or by neighbour discovery: their next
 * hop is needed only by connections that got stuck. That makes one table with one
 * rule of age of both; RFC 4861's probes of a neighbour that is known (its states
 * STALE, DELAY and PROBE) are left out, since whom we hear we answer.
 */
#include "net.h"

/* An address not heard of for so long is asked for again (RFC 1122 2.3.2.1: a minute). */
#define FRESH (60 * SECOND)
/* At most one question a second for each address (same section; RFC 4861: RETRANS_TIMER). */
#define ASK_INTERVAL (1 * SECOND)

static struct neighbour *find(struct net *net, struct ip address)
{
	for (int i = 0; i < NEIGHBOURS; i++)
		if (ip_equal(net->neighbour[i].address, address))
			return &net->neighbour[i];
	return NULL;
}

static bool is_fresh(const struct net *net, const struct neighbour *neighbour)
{
	return neighbour->known & (net->now - neighbour->heard_at < FRESH);
}

void neighbour_learn(struct net *net, struct ip address, const uint8_t *mac, bool override)
{
	struct neighbour *neighbour = ip_is_none(address) ? NULL : find(net, address);

	if (neighbour == NULL || (mac[0] & 1) != 0)
		return;
	if (!override && is_fresh(net, neighbour) && memcmp(neighbour->mac, mac, MAC_SIZE) != 0)
		return;
	memcpy(neighbour->mac, mac, MAC_SIZE);
	neighbour->known = true;
	neighbour->heard_at = net->now;
}

static struct neighbour *take_oldest(struct net *net, struct ip address)
{
	struct neighbour *oldest = &net->neighbour[0];

	for (int i = 1; i < NEIGHBOURS; i++)
		if (net->neighbour[i].ask_after < oldest->ask_after)
			oldest = &net->neighbour[i];
	*oldest = (struct neighbour){ .address = address };
	return oldest;
}

const uint8_t *neighbour_resolve(struct net *net, struct ip address)
{
	bool v4 = ip_is_v4(address);
	struct ip hop = v4 ? arp_next_hop(net, address) : ndp_next_hop(net, address);
	struct neighbour *neighbour;

	if (ip_is_none(hop))
		return NULL;
	neighbour = find(net, hop);
	if (neighbour == NULL)
		neighbour = take_oldest(net, hop);
	if (is_fresh(net, neighbour))
		return neighbour->mac;
	if (net->now >= neighbour->ask_after) {
		neighbour->ask_after = net->now + ASK_INTERVAL;
		if (v4)
			arp_ask(net, hop);
		else
			ndp_ask(net, hop);
	}
	return NULL;
}
