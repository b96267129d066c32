/* SPDX-License-Identifier: ISC */
/*
 * Neighbour discovery (RFC 4861) of a host: what ARP is to IPv4. Answers for our two
 * addresses, announces the configured one, and asks for the next hop of connections
 * that got stuck.
 *
 *	| type code checksum | flags | target (16) | option: type 1 MAC (6) |
 *
 * Left out: duplicate address detection, for the reason in arp.c; routers, since the
 * gateway is configured; and redirects.
 */
#include "net.h"

enum { SOLICITATION = 135, ADVERTISEMENT = 136 };
enum { SOURCE_MAC = 1, TARGET_MAC = 2 }; /* options */

#define SOLICITED 0x40000000u
#define OVERRIDE 0x20000000u
#define FIXED 24 /* bytes before the options */
#define OPTION_SIZE 8
#define HOP_LIMIT 255 /* so it was not forwarded: it is of this link */

static void send(struct net *net, const struct ip_ends *ends, uint8_t type, uint32_t flags,
		 struct ip target)
{
	uint8_t *icmp = ip_payload(net);

	put32(icmp, (uint32_t)type << 24);
	put32(icmp + 4, flags);
	memcpy(icmp + 8, target.bytes, sizeof(target));
	icmp[FIXED] = type == SOLICITATION ? SOURCE_MAC : TARGET_MAC;
	icmp[FIXED + 1] = 1; /* times 8 bytes */
	memcpy(icmp + FIXED + 2, net->mac, MAC_SIZE);
	icmpv6_send(net, ends, FIXED + OPTION_SIZE);
}

static void advertise_to_all(struct net *net, struct ip target)
{
	const struct ip_ends all_nodes = { .theirs = { .bytes = { 0xff, 2, [15] = 1 } },
					   .ours = target,
					   .mac = { 0x33, 0x33, 0, 0, 0, 1 } };

	send(net, &all_nodes, ADVERTISEMENT, OVERRIDE, target);
}

void ndp_announce(struct net *net)
{
	advertise_to_all(net, net->config.address6);
}

/* To those who share its last three bytes, mostly one. */
void ndp_ask(struct net *net, struct ip address)
{
	const uint8_t *last = address.bytes + 13;
	const struct ip_ends solicited = {
		.theirs = { .bytes = { 0xff, 2, [11] = 1, 0xff, last[0], last[1], last[2] } },
		.ours = net->config.address6,
		.mac = { 0x33, 0x33, 0xff, last[0], last[1], last[2] },
	};

	send(net, &solicited, SOLICITATION, 0, address);
}

struct ip ndp_next_hop(const struct net *net, struct ip address)
{
	const struct net_config *config = &net->config;
	unsigned whole = config->prefix6 / 8, bits = config->prefix6 % 8;
	uint8_t differs = 0;

	if (ip_is_link_local(address))
		return address;
	if (bits > 0)
		differs = (address.bytes[whole] ^ config->address6.bytes[whole]) >> (8 - bits);
	if (differs == 0 && memcmp(address.bytes, config->address6.bytes, whole) == 0)
		return address;
	return config->gateway6;
}

/*
 * RFC 4861 7.1: what both kinds of message must be to be looked at at all. Then *mac is
 * what the option of that kind says, or NULL.
 */
static bool parse(const struct packet *packet, uint8_t kind, const uint8_t **mac)
{
	const uint8_t *icmp = packet->payload;
	size_t size;

	*mac = NULL;
	if ((packet->header[7] != HOP_LIMIT) | (packet->length < FIXED) || icmp[8] == 0xff)
		return false;
	for (size_t at = FIXED; at < packet->length; at += size) {
		size_t left = packet->length - at;

		size = left < 2 ? 0 : (size_t)icmp[at + 1] * 8;
		if ((size == 0) | (size > left))
			return false;
		if (icmp[at] == kind)
			*mac = icmp + at + 2;
	}
	return true;
}

/* Somebody looks for one of us; perhaps one who has no address yet and fears a clash. */
void ndp_solicitation(struct net *net, const struct packet *packet)
{
	struct ip_ends ends = packet->ends;
	const uint8_t *mac;
	bool anonymous = ip_is_none(ends.theirs);
	bool good = parse(packet, SOURCE_MAC, &mac);

	if (!good || (anonymous & ((mac != NULL) | !ip_is_multicast(ends.ours)))) {
		net->counters.malformed++;
		return;
	}
	if (mac != NULL)
		neighbour_learn(net, ends.theirs, mac, true);
	ends.ours = ip_from_v6(packet->payload + 8);
	if (!ipv6_is_ours(net, ends.ours))
		net->counters.not_for_us++;
	else if (anonymous)
		advertise_to_all(net, ends.ours);
	else
		send(net, &ends, ADVERTISEMENT, SOLICITED | OVERRIDE, ends.ours);
}

void ndp_advertisement(struct net *net, const struct packet *packet)
{
	const uint8_t *mac;
	bool good = parse(packet, TARGET_MAC, &mac);
	uint32_t flags = get32(packet->payload + 4);
	bool to_group = ip_is_multicast(packet->ends.ours);

	if (!good || (to_group & ((flags & SOLICITED) != 0)) | ip_is_none(packet->ends.theirs))
		net->counters.malformed++;
	else if (mac != NULL)
		neighbour_learn(net, ip_from_v6(packet->payload + 8), mac, (flags & OVERRIDE) != 0);
}
