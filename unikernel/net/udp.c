/* SPDX-License-Identifier: ISC */
/* UDP (RFC 768) and its one service: echo (RFC 862). */
#include "net.h"

#define PORT_ECHO 7

static bool checksum_is_good(const struct net *net, const struct packet *packet, size_t length)
{
	uint64_t sum;

	if (get16(packet->payload + 6) == 0)
		return true; /* the sender made none (RFC 768) */
	sum = checksum_pseudo(net, packet->source, IP_UDP, length);
	return checksum(sum, packet->payload, length) == 0;
}

static void echo(struct net *net, const struct packet *packet, size_t length)
{
	uint8_t *reply = ipv4_payload(net);
	uint64_t sum = checksum_pseudo(net, packet->source, IP_UDP, length);
	uint16_t result;

	memcpy(reply, packet->payload, length);
	put16(reply, PORT_ECHO);
	put16(reply + 2, get16(packet->payload));
	put16(reply + 6, 0);
	result = checksum(sum, reply, length);
	put16(reply + 6, result == 0 ? 0xffff : result); /* 0 would mean "none" */
	ipv4_send(net, packet->mac, packet->source, IP_UDP, length);
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
	    !checksum_is_good(net, packet, length)) {
		net->counters.malformed++;
		return;
	}
	if (get16(packet->payload + 2) != PORT_ECHO) {
		icmp_port_unreachable(net, packet);
		return;
	}
	/* Two echo services could talk to each other for ever (CERT CA-1996-01). */
	if (get16(packet->payload) != PORT_ECHO && get16(packet->payload) != 0)
		echo(net, packet, length);
}
