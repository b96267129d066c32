/* SPDX-License-Identifier: ISC */
/*
 * IPv4 (RFC 791) for a host with one interface.
 *
 * Left out: reassembly. We set "don't fragment" and TCP announces an MSS that
 * fits the link, so only foreign UDP or ping could come in pieces; those are
 * counted and dropped. Options are stepped over, which RFC 1122 3.2.1.8 allows
 * for all but source routes to others, and we never forward.
 */
#include "net.h"

#define DONT_FRAGMENT 0x4000
#define FRAGMENT_MASK 0x3fff /* "more fragments" and the offset */
#define TIME_TO_LIVE 64

static bool source_is_sound(const struct net *net, uint32_t source)
{
	uint32_t host = ~net->config.netmask;
	bool on_link = ((source ^ net->config.address) & net->config.netmask) == 0;

	/* Nobody, ourselves, this host, a group or the broadcast address. */
	bool nobody = (source == 0) | (source == net->config.address) | (source >> 24 == 127) |
		      (source >> 28 >= 0xe);
	/* The network's own address and its broadcast, where it has them (RFC 3021). */
	bool whole_link = on_link & (host > 1) &
			  (((source & host) == 0) | ((source & host) == host));

	return !(nobody | whole_link);
}

static void dispatch(struct net *net, const struct packet *packet)
{
	switch (packet->header[9]) {
	case IP_TCP:
		tcp_input(net, packet);
		break;
	case IP_UDP:
		udp_input(net, packet);
		break;
	case IP_ICMP:
		icmp_input(net, packet);
		break;
	default:
		net->counters.not_for_us++;
	}
}

void ipv4_input(struct net *net, const uint8_t *frame, size_t length)
{
	const uint8_t *header = frame + ETHERNET_HEADER;
	size_t available = length - ETHERNET_HEADER;
	size_t header_length, total;
	struct packet packet;

	if (available < IPV4_HEADER) {
		net->counters.malformed++;
		return;
	}
	header_length = (size_t)(header[0] & 15) * 4;
	total = get16(header + 2);
	if ((header[0] >> 4 != 4) | (header_length < IPV4_HEADER) | (total < header_length) |
		    (total > available) ||
	    checksum(header, header_length) != 0 ||
	    !source_is_sound(net, get32(header + 12))) {
		net->counters.malformed++;
		return;
	}
	if ((get32(header + 16) != net->config.address) | (net->config.address == 0)) {
		net->counters.not_for_us++;
		return;
	}
	if ((get16(header + 6) & FRAGMENT_MASK) != 0) {
		net->counters.fragments++;
		return;
	}
	packet.header = header;
	packet.header_length = header_length;
	packet.payload = header + header_length;
	packet.length = total - header_length;
	packet.ends.theirs = ip_from_v4(header + 12);
	packet.ends.ours = ip_from_v4(header + 16);
	memcpy(packet.ends.mac, frame + MAC_SIZE, MAC_SIZE);
	dispatch(net, &packet);
}

void ipv4_send(struct net *net, const struct ip_ends *ends, uint8_t protocol, size_t length)
{
	uint8_t *header = ip_payload(net) - IPV4_HEADER;

	header[0] = 0x45; /* version 4, no options */
	header[1] = 0;
	put16(header + 2, (uint16_t)(IPV4_HEADER + length));
	put16(header + 4, net->ip_id++);
	put16(header + 6, DONT_FRAGMENT);
	header[8] = TIME_TO_LIVE;
	header[9] = protocol;
	put16(header + 10, 0);
	memcpy(header + 12, ends->ours.bytes + 12, 4);
	memcpy(header + 16, ends->theirs.bytes + 12, 4);
	put16(header + 10, checksum(header, IPV4_HEADER));
	net_send(net, ends->mac, TYPE_IPV4, header, IPV4_HEADER + length);
}
