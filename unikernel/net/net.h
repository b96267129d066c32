/* SPDX-License-Identifier: ISC */
/*
 * The network stack: one interface, an address of each family, no threads, no globals.
 *
 * All state is in `struct net`, which its owner zeroes and keeps. Frames go in
 * by net_input(), time by net_poll(); frames leave by platform_net_write(). Apps
 * see the calls of the second half of this file and nothing else.
 *
 * Everything the guest sends answers something, so an answer goes back to the
 * MAC address that the question came from: no ARP and no neighbour solicitation
 * stands between a first SYN and its SYN-ACK. Only when retransmissions stay
 * unanswered is the next hop asked for again (RFC 1122 2.3.2.1).
 *
 * Ports and our own address of IPv4 are in host byte order, except in frames; other
 * addresses are struct ip.
 *
 * Where every frame passes, conditions without side effects are joined by & and |:
 * each && is a branch, and under a translator (QEMU's TCG) the first visitor pays
 * for every one. Where the right side must not be looked at otherwise, it is &&.
 */
#ifndef NET_H
#define NET_H

#include "bytes.h"
#include "ip.h"
#include "platform.h"
#include "tcp.h"

#define MS 1000000ull
#define SECOND 1000000000ull

#define ETHERNET_HEADER 14
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define UDP_HEADER 8
#define ICMP_HEADER 8 /* of both families */

/* The MTU of Ethernet; a device that offers more is used up to this. */
#define MTU_MAX 1500
#define FRAME_MAX (ETHERNET_HEADER + MTU_MAX)
/* What IP carries is made behind room for the longest headers; IPv4 leaves some empty. */
#define HEADROOM (ETHERNET_HEADER + IPV6_HEADER)

#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_IPV6 0x86dd
#define TYPE_STORE 0x88b5

enum { IP_ICMP = 1, IP_TCP = 6, IP_UDP = 17, IP_ICMPV6 = 58 };

struct net_config {
	uint32_t address; /* 0: none (yet); of IPv4 nothing is answered */
	uint32_t gateway; /* 0: none */
	uint32_t netmask;
	struct ip address6, gateway6; /* the same for IPv6 */
	unsigned prefix6;	      /* how many bits of address6 the link has in common */
};

/* Counters for /stats and for tests; nothing depends on them. */
struct net_counters {
	uint64_t frames_in, frames_out;
	uint64_t dropped_out;  /* the device had no room */
	uint64_t malformed;    /* wrong length, version or checksum */
	uint64_t fragments;    /* not reassembled: MSS keeps TCP clear of them */
	uint64_t not_for_us;   /* other address, protocol or type */
	uint64_t ipv6_in, ipv6_out; /* packets for us; from us */
	uint64_t tcp_accepted; /* connections that reached ESTABLISHED */
	uint64_t tcp_resets_out, tcp_retransmits, tcp_timeouts;
	uint64_t tcp_refused; /* SYNs dropped since the table was full of live ones */
	uint64_t tcp_cookies; /* SYNs answered without state */
};

/* Enough for the gateways and the few neighbours whose MAC may change under us. */
#define NEIGHBOURS 16

struct neighbour {
	struct ip address; /* none: free */
	uint8_t mac[MAC_SIZE];
	bool known;
	uint64_t ask_after;
	uint64_t heard_at;
};

struct store;

struct net {
	struct net_config config;
	struct store *store; /* gets the host's frames; NULL: nobody does */
	uint8_t mac[MAC_SIZE];
	struct ip link_local; /* of the MAC address (RFC 4291 2.5.6); used if address6 is */
	uint16_t mtu;
	uint64_t now; /* read once for each batch of frames */
	uint64_t key[2];
	struct net_counters counters;
	uint16_t ip_id;
	struct neighbour neighbour[NEIGHBOURS];
	uint8_t frame_in[FRAME_MAX];
	uint8_t frame_out[HEADROOM - IPV4_HEADER + MTU_MAX];
	struct tcp tcp;
};

/* A received packet while it is looked at. */
struct packet {
	const uint8_t *header; /* of IP */
	size_t header_length;  /* with all that is before the payload */
	const uint8_t *payload;
	size_t length; /* of the payload */
	struct ip_ends ends;
};

/* -- For apps and the main loop -- */

void net_init(struct net *net, const struct net_config *config);
/* Tells the link who we are. Sent last of all: whoever waits takes it for "ready". */
void net_announce(struct net *net);
/* Takes every waiting frame, runs due timers; returns when it wants to be called next. */
uint64_t net_poll(struct net *net);

/* -- Between the files of this folder -- */

/* Sends the payload, which lies in frame_out behind room for the header of Ethernet. */
void net_send(struct net *net, const uint8_t *mac, uint16_t type, uint8_t *payload, size_t length);

/* The MAC of the next hop to `address`, if known and fresh; else asks for it. */
const uint8_t *neighbour_resolve(struct net *net, struct ip address);
/*
 * Somebody says so. Only what we asked for is kept: nobody can fill the table. Unless
 * it is to `override`, an address that is fresh stays as it is.
 */
void neighbour_learn(struct net *net, struct ip address, const uint8_t *mac, bool override);

/* Of each family: says where we are; asks where somebody is; and the way to somebody. */
void arp_announce(struct net *net);
void arp_ask(struct net *net, struct ip address);
struct ip arp_next_hop(const struct net *net, struct ip address);
void arp_input(struct net *net, const uint8_t *frame, size_t length);

void ndp_announce(struct net *net);
void ndp_ask(struct net *net, struct ip address);
struct ip ndp_next_hop(const struct net *net, struct ip address);
void ndp_solicitation(struct net *net, const struct packet *packet);
void ndp_advertisement(struct net *net, const struct packet *packet);

void ipv4_input(struct net *net, const uint8_t *frame, size_t length);
/* These send what lies in ip_payload(): the header before it is filled in here. */
void ipv4_send(struct net *net, const struct ip_ends *ends, uint8_t protocol, size_t length);
void ipv6_input(struct net *net, const uint8_t *frame, size_t length);
void ipv6_send(struct net *net, const struct ip_ends *ends, uint8_t protocol, size_t length);
bool ipv6_is_ours(const struct net *net, struct ip address);

void icmp_input(struct net *net, const struct packet *packet);
void icmp_port_unreachable(struct net *net, const struct packet *packet);
void icmpv6_input(struct net *net, const struct packet *packet);
void icmpv6_port_unreachable(struct net *net, const struct packet *packet);
/* Sends what lies in ip_payload(), with the checksum filled in. */
void icmpv6_send(struct net *net, const struct ip_ends *ends, size_t length);
void udp_input(struct net *net, const struct packet *packet);
void tcp_input(struct net *net, const struct packet *packet);
uint64_t tcp_poll(struct net *net);

static inline bool net_has_address(const struct net_config *config)
{
	return (config->address != 0) | !ip_is_none(config->address6);
}

static inline uint8_t *ip_payload(struct net *net)
{
	return net->frame_out + HEADROOM;
}

static inline void ip_send(struct net *net, const struct ip_ends *ends, uint8_t protocol,
			   size_t length)
{
	if (ip_is_v4(ends->theirs))
		ipv4_send(net, ends, protocol, length);
	else
		ipv6_send(net, ends, protocol, length);
}

/* The most that a segment of TCP carries to or from `address`. */
static inline uint16_t tcp_mss(const struct net *net, struct ip address)
{
	int header = ip_is_v4(address) ? IPV4_HEADER : IPV6_HEADER;

	return (uint16_t)(net->mtu - header - TCP_HEADER);
}

/* The Internet checksum (RFC 1071); 0 of data that contains the right one. */
uint16_t checksum(const uint8_t *data, size_t length);
/* The same with the pseudo header of TCP, UDP and ICMPv6. */
uint16_t checksum_of(const struct ip_ends *ends, uint8_t protocol, const uint8_t *data,
		     size_t length);

uint64_t siphash(const uint64_t key[2], const uint64_t *words, size_t count);

#endif
