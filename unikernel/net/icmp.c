/* SPDX-License-Identifier: ISC */
/*
 * ICMP (RFC 792): answers to ping, and "port unreachable" for UDP.
 *
 * Left out: errors from others. TCP must not die of them (RFC 5927) and finds
 * out by its own timers; path MTU discovery is left out with them, so the MSS
 * of a path with a smaller link must be clamped by its router, as is usual.
 */
#include "net.h"

enum { ECHO_REPLY = 0, UNREACHABLE = 3, ECHO_REQUEST = 8 };

#define PORT_UNREACHABLE 3
#define QUOTED 8 /* bytes of the offending datagram, after its header */

static void icmp_send(struct net *net, const struct packet *packet, size_t length)
{
	uint8_t *icmp = ip_payload(net);

	put16(icmp + 2, 0);
	put16(icmp + 2, checksum(icmp, length));
	ipv4_send(net, &packet->ends, IP_ICMP, length);
}

void icmp_input(struct net *net, const struct packet *packet)
{
	uint8_t *reply = ip_payload(net);

	if (packet->length < ICMP_HEADER ||
	    checksum(packet->payload, packet->length) != 0) {
		net->counters.malformed++;
		return;
	}
	if (packet->payload[0] != ECHO_REQUEST || packet->payload[1] != 0) {
		net->counters.not_for_us++;
		return;
	}
	memcpy(reply, packet->payload, packet->length);
	reply[0] = ECHO_REPLY;
	icmp_send(net, packet, packet->length);
}

void icmp_port_unreachable(struct net *net, const struct packet *packet)
{
	uint8_t *icmp = ip_payload(net);
	size_t quoted = packet->header_length + min(packet->length, QUOTED);

	memset(icmp, 0, ICMP_HEADER);
	icmp[0] = UNREACHABLE;
	icmp[1] = PORT_UNREACHABLE;
	memcpy(icmp + ICMP_HEADER, packet->header, quoted);
	icmp_send(net, packet, ICMP_HEADER + quoted);
}
