/* SPDX-License-Identifier: ISC */
/*
 * ARP for Ethernet and IPv4 (RFC 826): answers for our address, announces it
 * (RFC 5227 3), and asks for the next hop of connections that got stuck.
 *
 * Left out: probing for a conflict before use (the one who starts us assigned
 * the address, and a probe takes seconds) and defending it afterwards.
 */
#include "net.h"

#define ARP_LENGTH 28
#define FRAME_MIN_PAYLOAD 46 /* IEEE 802.3 pads what is shorter */

enum { ARP_REQUEST = 1, ARP_REPLY = 2 };

static const uint8_t nobody[MAC_SIZE];
static const uint8_t broadcast[MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
/* Hardware Ethernet, protocol IPv4, and the lengths of their addresses. */
static const uint8_t prefix[6] = { 0, 1, 8, 0, MAC_SIZE, 4 };

static void send(struct net *net, uint16_t operation, const uint8_t *mac, uint32_t target,
		 const uint8_t *frame_to)
{
	uint8_t *arp = net->frame_out + ETHERNET_HEADER;

	memset(arp, 0, FRAME_MIN_PAYLOAD);
	memcpy(arp, prefix, sizeof(prefix));
	put16(arp + 6, operation);
	memcpy(arp + 8, net->mac, MAC_SIZE);
	put32(arp + 14, net->config.address);
	memcpy(arp + 18, mac, MAC_SIZE);
	put32(arp + 24, target);
	net_send(net, frame_to, TYPE_ARP, arp, FRAME_MIN_PAYLOAD);
}

void arp_announce(struct net *net)
{
	send(net, ARP_REQUEST, nobody, net->config.address, broadcast);
}

void arp_ask(struct net *net, struct ip address)
{
	send(net, ARP_REQUEST, nobody, ip_to_v4(address), broadcast);
}

struct ip arp_next_hop(const struct net *net, struct ip address)
{
	const struct net_config *config = &net->config;
	uint8_t gateway[4];

	if (((ip_to_v4(address) ^ config->address) & config->netmask) == 0)
		return address;
	put32(gateway, config->gateway);
	return config->gateway == 0 ? (struct ip){ .word = { 0 } } : ip_from_v4(gateway);
}

void arp_input(struct net *net, const uint8_t *frame, size_t length)
{
	const uint8_t *arp = frame + ETHERNET_HEADER;

	if (length < ETHERNET_HEADER + ARP_LENGTH || memcmp(arp, prefix, sizeof(prefix)) != 0) {
		net->counters.malformed++;
		return;
	}
	uint16_t operation = get16(arp + 6);
	const uint8_t *sender = arp + 8;
	uint32_t address = get32(arp + 14);

	neighbour_learn(net, ip_from_v4(arp + 14), sender, true);
	/* A probe (RFC 5227) has sender address 0; it is answered like any other. */
	if ((operation == ARP_REQUEST) & (get32(arp + 24) == net->config.address) &
	    (address != net->config.address) & (net->config.address != 0))
		send(net, ARP_REPLY, sender, address, sender);
}
