/* SPDX-License-Identifier: ISC */
/*
 * ARP for Ethernet and IPv4 (RFC 826): answers for our address, announces it
 * (RFC 5227 3), and finds the next hop of connections that got stuck.
 *
 * Left out: probing for a conflict before use (the one who starts us assigned
 * the address, and a probe takes seconds) and defending it afterwards.
 */
#include "net.h"

#define ARP_LENGTH 28
#define TYPE_ARP 0x0806
#define FRAME_MIN_PAYLOAD 46 /* IEEE 802.3 pads what is shorter */

enum { ARP_REQUEST = 1, ARP_REPLY = 2 };

/* An address not heard of for so long is asked for again (RFC 1122 2.3.2.1: a minute). */
#define ARP_FRESH (60 * SECOND)
/* At most one question a second for each address (same section). */
#define ARP_ASK_INTERVAL (1 * SECOND)

static const uint8_t nobody[MAC_SIZE];
static const uint8_t broadcast[MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
/* Hardware Ethernet, protocol IPv4, and the lengths of their addresses. */
static const uint8_t prefix[6] = { 0, 1, 8, 0, MAC_SIZE, 4 };

static void arp_send(struct net *net, uint16_t operation, const uint8_t *mac, uint32_t target,
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
	net_send(net, frame_to, TYPE_ARP, FRAME_MIN_PAYLOAD);
}

void net_announce(struct net *net)
{
	arp_send(net, ARP_REQUEST, nobody, net->config.address, broadcast);
}

static struct arp_entry *arp_find(struct net *net, uint32_t address)
{
	for (int i = 0; i < ARP_ENTRIES; i++)
		if (net->arp[i].address == address)
			return &net->arp[i];
	return NULL;
}

/* Only answers to our questions and updates are kept: nobody can fill the table. */
static void arp_learn(struct net *net, uint32_t address, const uint8_t *mac)
{
	struct arp_entry *entry = address == 0 ? NULL : arp_find(net, address);

	if (entry == NULL || (mac[0] & 1) != 0)
		return;
	memcpy(entry->mac, mac, MAC_SIZE);
	entry->known = true;
	entry->heard_at = net->now;
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

	arp_learn(net, address, sender);
	/* A probe (RFC 5227) has sender address 0; it is answered like any other. */
	if ((operation == ARP_REQUEST) & (get32(arp + 24) == net->config.address) &
	    (address != net->config.address) & (net->config.address != 0))
		arp_send(net, ARP_REPLY, sender, address, sender);
}

static struct arp_entry *arp_new(struct net *net, uint32_t address)
{
	struct arp_entry *oldest = &net->arp[0];

	for (int i = 1; i < ARP_ENTRIES; i++)
		if (net->arp[i].ask_after < oldest->ask_after)
			oldest = &net->arp[i];
	*oldest = (struct arp_entry){ .address = address };
	return oldest;
}

const uint8_t *arp_resolve(struct net *net, uint32_t address)
{
	const struct net_config *config = &net->config;
	bool on_link = ((address ^ config->address) & config->netmask) == 0;
	uint32_t hop = on_link ? address : config->gateway;
	struct arp_entry *entry;

	if (hop == 0)
		return NULL;
	entry = arp_find(net, hop);
	if (entry == NULL)
		entry = arp_new(net, hop);
	if (entry->known && net->now - entry->heard_at < ARP_FRESH)
		return entry->mac;
	if (net->now >= entry->ask_after) {
		entry->ask_after = net->now + ARP_ASK_INTERVAL;
		arp_send(net, ARP_REQUEST, nobody, hop, broadcast);
	}
	return NULL;
}
