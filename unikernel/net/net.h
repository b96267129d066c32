/* SPDX-License-Identifier: ISC */
/*
 * The network stack: one interface, one address, no threads, no globals.
 *
 * All state is in `struct net`, which its owner zeroes and keeps. Frames go in
 * by net_input(), time by net_poll(); frames leave by platform_net_write(). Apps
 * see the calls of the second half of this file and nothing else.
 *
 * Everything the guest sends answers something, so an answer goes back to the
 * MAC address that the question came from: no ARP stands between a first SYN
 * and its SYN-ACK. Only when retransmissions stay unanswered is the next hop
 * asked for again (RFC 1122 2.3.2.1).
 *
 * Addresses and ports are in host byte order, except in frames.
 *
 * Where every frame passes, conditions without side effects are joined by & and |:
 * each && is a branch, and under a translator (QEMU's TCG) the first visitor pays
 * for every one. Where the right side must not be looked at otherwise, it is &&.
 */
#ifndef NET_H
#define NET_H

#include "bytes.h"
#include "platform.h"
#include "tcp.h"

#define MS 1000000ull
#define SECOND 1000000000ull

#define MAC_SIZE 6
#define ETHERNET_HEADER 14
#define IPV4_HEADER 20
#define UDP_HEADER 8
#define ICMP_HEADER 8

/* The MTU of Ethernet; a device that offers more is used up to this. */
#define MTU_MAX 1500
#define FRAME_MAX (ETHERNET_HEADER + MTU_MAX)

enum { IP_ICMP = 1, IP_TCP = 6, IP_UDP = 17 };

struct net_config {
	uint32_t address; /* 0: none yet; until then nothing is answered */
	uint32_t gateway; /* 0: none */
	uint32_t netmask;
};

/* Counters for /stats and for tests; nothing depends on them. */
struct net_counters {
	uint64_t frames_in, frames_out;
	uint64_t dropped_out;  /* the device had no room */
	uint64_t malformed;    /* wrong length, version or checksum */
	uint64_t fragments;    /* not reassembled: MSS keeps TCP clear of them */
	uint64_t not_for_us;   /* other address, protocol or type */
	uint64_t tcp_accepted; /* connections that reached ESTABLISHED */
	uint64_t tcp_resets_out, tcp_retransmits, tcp_timeouts;
	uint64_t tcp_refused; /* SYNs dropped since the table was full of live ones */
	uint64_t tcp_cookies; /* SYNs answered without state */
};

/* Enough for the gateway and the few neighbours whose MAC may change under us. */
#define ARP_ENTRIES 16

struct arp_entry {
	uint32_t address; /* 0: free */
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
	uint16_t mtu;
	uint64_t now; /* read once for each batch of frames */
	uint64_t key[2];
	struct net_counters counters;
	uint16_t ip_id;
	struct arp_entry arp[ARP_ENTRIES];
	uint8_t frame_in[FRAME_MAX];
	uint8_t frame_out[FRAME_MAX];
	struct tcp tcp;
};

/* A received packet while it is looked at. */
struct packet {
	const uint8_t *mac; /* where the frame came from */
	const uint8_t *header; /* of IPv4 */
	size_t header_length;
	const uint8_t *payload;
	size_t length; /* of the payload */
	uint32_t source;
};

/* -- For apps and the main loop -- */

void net_init(struct net *net, const struct net_config *config);
/* Tells the link who we are. Sent last of all: whoever waits takes it for "ready". */
void net_announce(struct net *net);
/* Takes every waiting frame, runs due timers; returns when it wants to be called next. */
uint64_t net_poll(struct net *net);

/* -- Between the files of this folder -- */

void net_send(struct net *net, const uint8_t *mac, uint16_t type, size_t payload_length);
void arp_input(struct net *net, const uint8_t *frame, size_t length);
/* The MAC of the next hop to `address`, if known and fresh; else asks for it. */
const uint8_t *arp_resolve(struct net *net, uint32_t address);
void ipv4_input(struct net *net, const uint8_t *frame, size_t length);
/* Sends what lies in ipv4_payload(): the header before it is filled in here. */
void ipv4_send(struct net *net, const uint8_t *mac, uint32_t to, uint8_t protocol, size_t length);
void icmp_input(struct net *net, const struct packet *packet);
void icmp_port_unreachable(struct net *net, const struct packet *packet);
void udp_input(struct net *net, const struct packet *packet);
void tcp_input(struct net *net, const struct packet *packet);
uint64_t tcp_poll(struct net *net);

static inline uint8_t *ipv4_payload(struct net *net)
{
	return net->frame_out + ETHERNET_HEADER + IPV4_HEADER;
}

/* The Internet checksum (RFC 1071) of data and what `sum` stands for: 0, or the next. */
uint16_t checksum(uint64_t sum, const uint8_t *data, size_t length);
/* The sum of the pseudo header of TCP and UDP between us and `peer`. */
uint64_t checksum_pseudo(const struct net *net, uint32_t peer, uint8_t protocol, size_t length);

uint64_t siphash(const uint64_t key[2], const uint64_t *words, size_t count);

#endif
