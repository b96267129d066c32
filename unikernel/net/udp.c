/* SPDX-License-Identifier: ISC */
/* UDP (RFC 768) and its one service: echo (RFC 862). */
#include "net.h"

#define PORT_ECHO 7

static bool checksum_is_good(const struct packet *packet, size_t length)
{
	if (get16(packet->payload + 6) == 0)
		return ip_is_v4(packet->ends.theirs); /* the sender made none (RFC 768) */
	return checksum_of(&packet->ends, IP_UDP, packet->payload, length) == 0;
}

static void echo(struct net *net, const struct packet *packet, size_t length)
{
	uint8_t *reply = ip_payload(net);
	uint16_t sum;

	memcpy(reply, packet->payload, length);
	put16(reply, PORT_ECHO);
	put16(reply + 2, get16(packet->payload));
	put16(reply + 6, 0);
	sum = checksum_of(&packet->ends, IP_UDP, reply, length);
	put16(reply + 6, sum == 0 ? 0xffff : sum); /* 0 would mean "none" */
	ip_send(net, &packet->ends, IP_UDP, length);
}

void udp_input(struct net *net, const struct packet *packet)
{
	size_t length;

	if (packet->length < UDP_HEADER) {
		net->counters.malformed++;
		return;
	}
	length = get16(packet->payload + 4);
	if (length < UDP_HEADER || length > packet->length ||
	    !checksum_is_good(packet, length)) {
		net->counters.malformed++;
		return;
	}
	if (get16(packet->payload + 2) != PORT_ECHO) {
		if (ip_is_v4(packet->ends.theirs))
			icmp_port_unreachable(net, packet);
		else
			icmpv6_port_unreachable(net, packet);
		return;
	}
	/* Two echo services could talk to each other for ever (CERT CA-1996-01). */
	if (get16(packet->payload) != PORT_ECHO && get16(packet->payload) != 0)
		echo(net, packet, length);
}
