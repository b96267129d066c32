/* SPDX-License-Identifier: ISC */
/*
 * IPv6 (RFC 8200) for a host with one interface, a configured address and the
 * link-local one of its MAC address.
 *
 * Hop-by-hop and destination options are stepped over, and so is a routing header
 * that has no hop left to visit. Left out: reassembly, as in ipv4.c (fragments are
 * counted and dropped); autoconfiguration, since whoever starts us knows the address;
 * and MLD (RFC 3810): a switch that snoops multicast must let solicitations pass.
 */
#include "net.h"

#define VERSION 6
#define HOP_LIMIT 64
#define HOP_LIMIT_ICMPV6 255 /* neighbour discovery asks for it, and echo does not mind */

enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION_OPTIONS = 60, BROKEN = 255 };

bool ipv6_is_ours(const struct net *net, struct ip address)
{
	return ip_equal(address, net->config.address6) | ip_equal(address, net->link_local);
}

/*
 * Not a group, nor ourselves, nor anything of ::/64: loopback, addresses of IPv4. Nobody
 * at all (::) is for ICMPv6 to judge, where it is somebody who has no address yet.
 */
static bool source_is_sound(const struct net *net, struct ip source)
{
	bool reserved = (source.word[0] == 0) & (source.word[1] != 0);

	return !(reserved | ip_is_multicast(source) | ipv6_is_ours(net, source));
}

/* The groups we are in: all nodes (ff02::1), and those where our addresses are asked for. */
static bool is_our_group(const struct net *net, const uint8_t *target)
{
	static const uint8_t all_nodes[16] = { 0xff, 2, [15] = 1 };
	static const uint8_t solicited[13] = { 0xff, 2, [11] = 1, 0xff };

	if (memcmp(target, solicited, sizeof(solicited)) != 0)
		return memcmp(target, all_nodes, sizeof(all_nodes)) == 0;
	return memcmp(target + 13, net->config.address6.bytes + 13, 3) == 0 ||
	       memcmp(target + 13, net->link_local.bytes + 13, 3) == 0;
}

/*
 * What the packet carries, behind all that we step over; the payload is what is left.
 * BROKEN, a reserved number, if something cannot be stepped over.
 */
static uint8_t skip_extensions(struct packet *packet)
{
	uint8_t next = packet->header[6];

	while ((next == HOP_BY_HOP) | (next == DESTINATION_OPTIONS) | (next == ROUTING)) {
		const uint8_t *extension = packet->payload;
		size_t size;

		if (packet->length < 8)
			return BROKEN;
		size = ((size_t)extension[1] + 1) * 8;
		if ((size > packet->length) | ((next == ROUTING) & (extension[3] != 0)))
			return BROKEN;
		next = extension[0];
		packet->payload += size;
		packet->length -= size;
		packet->header_length += size;
	}
	return next;
}

static void dispatch(struct net *net, struct packet *packet)
{
	uint8_t protocol = skip_extensions(packet);
	/* To a group or to nobody only ICMPv6 has something to say. */
	bool one_to_one = !ip_is_multicast(packet->ends.ours) & !ip_is_none(packet->ends.theirs);

	if ((protocol == IP_TCP) & one_to_one)
		tcp_input(net, packet);
	else if ((protocol == IP_UDP) & one_to_one)
		udp_input(net, packet);
	else if (protocol == IP_ICMPV6)
		icmpv6_input(net, packet);
	else if (protocol == FRAGMENT)
		net->counters.fragments++;
	else if (protocol == BROKEN)
		net->counters.malformed++;
	else
		net->counters.not_for_us++;
}

/* What is for us; a group's packet may come to our own MAC address (RFC 6085), not the reverse. */
static bool is_for_us(const struct net *net, const uint8_t *frame, struct ip target)
{
	if (ip_is_none(net->config.address6))
		return false;
	if (ip_is_multicast(target))
		return is_our_group(net, target.bytes);
	return ipv6_is_ours(net, target) & ((frame[0] & 1) == 0);
}

void ipv6_input(struct net *net, const uint8_t *frame, size_t length)
{
	const uint8_t *header = frame + ETHERNET_HEADER;
	size_t available = length - ETHERNET_HEADER;
	struct packet packet;

	if (available < IPV6_HEADER) {
		net->counters.malformed++;
		return;
	}
	packet.header = header;
	packet.header_length = IPV6_HEADER;
	packet.payload = header + IPV6_HEADER;
	packet.length = get16(header + 4);
	packet.ends.theirs = ip_from_v6(header + 8);
	packet.ends.ours = ip_from_v6(header + 24);
	memcpy(packet.ends.mac, frame + MAC_SIZE, MAC_SIZE);
	if ((header[0] >> 4 != VERSION) | (packet.length > available - IPV6_HEADER) |
	    !source_is_sound(net, packet.ends.theirs)) {
		net->counters.malformed++;
		return;
	}
	if (!is_for_us(net, frame, packet.ends.ours)) {
		net->counters.not_for_us++;
		return;
	}
	net->counters.ipv6_in++;
	dispatch(net, &packet);
}

void ipv6_send(struct net *net, const struct ip_ends *ends, uint8_t protocol, size_t length)
{
	uint8_t *header = ip_payload(net) - IPV6_HEADER;

	put32(header, VERSION << 28); /* no traffic class, no flow label */
	put16(header + 4, (uint16_t)length);
	header[6] = protocol;
	header[7] = protocol == IP_ICMPV6 ? HOP_LIMIT_ICMPV6 : HOP_LIMIT;
	memcpy(header + 8, ends->ours.bytes, 16);
	memcpy(header + 24, ends->theirs.bytes, 16);
	net->counters.ipv6_out++;
	net_send(net, ends->mac, TYPE_IPV6, header, IPV6_HEADER + length);
}
