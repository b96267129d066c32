/* SPDX-License-Identifier: ISC */
/*
 * ICMPv6 (RFC 4443): answers to ping, "port unreachable" for UDP, and the way in to
 * neighbour discovery. Left out: errors from others, for the reasons in icmp.c.
 */
#include "net.h"

enum { UNREACHABLE = 1, ECHO_REQUEST = 128, ECHO_REPLY = 129, SOLICITATION = 135,
       ADVERTISEMENT = 136 };

#define PORT_UNREACHABLE 4
#define MTU_MIN 1280 /* of IPv6: an error fits it, with what it quotes */

void icmpv6_send(struct net *net, const struct ip_ends *ends, size_t length)
{
	uint8_t *icmp = ip_payload(net);

	put16(icmp + 2, 0);
	put16(icmp + 2, checksum_of(ends, IP_ICMPV6, icmp, length));
	ipv6_send(net, ends, IP_ICMPV6, length);
}

static void echo(struct net *net, const struct packet *packet)
{
	struct ip_ends ends = packet->ends;
	uint8_t *reply = ip_payload(net);

	if (ip_is_none(ends.theirs)) {
		net->counters.malformed++;
		return;
	}
	if (ip_is_multicast(ends.ours))
		ends.ours = ip_is_link_local(ends.theirs) ? net->link_local : net->config.address6;
	memcpy(reply, packet->payload, packet->length);
	reply[0] = ECHO_REPLY;
	icmpv6_send(net, &ends, packet->length);
}

void icmpv6_input(struct net *net, const struct packet *packet)
{
	const uint8_t *icmp = packet->payload;

	if (packet->length < ICMP_HEADER ||
	    checksum_of(&packet->ends, IP_ICMPV6, icmp, packet->length) != 0)
		net->counters.malformed++;
	else if (get16(icmp) == SOLICITATION << 8)
		ndp_solicitation(net, packet);
	else if (get16(icmp) == ADVERTISEMENT << 8)
		ndp_advertisement(net, packet);
	else if (get16(icmp) == ECHO_REQUEST << 8)
		echo(net, packet);
	else
		net->counters.not_for_us++;
}

void icmpv6_port_unreachable(struct net *net, const struct packet *packet)
{
	uint8_t *icmp = ip_payload(net);
	size_t quoted = min(packet->header_length + packet->length,
			    (size_t)MTU_MIN - IPV6_HEADER - ICMP_HEADER);

	memset(icmp, 0, ICMP_HEADER);
	icmp[0] = UNREACHABLE;
	icmp[1] = PORT_UNREACHABLE;
	memcpy(icmp + ICMP_HEADER, packet->header, quoted);
	icmpv6_send(net, &packet->ends, ICMP_HEADER + quoted);
}
