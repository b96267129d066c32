/* SPDX-License-Identifier: ISC */
/* Frames in, frames out, and the turn of the crank. */
#include "net.h"
#include "store.h"

/* How the MAC addresses of its groups begin (RFC 2464 7). */
#define GROUPS_IPV6 0x3333
/* So many frames are taken before timers get their turn. */
#define BATCH 64

static const uint8_t broadcast[MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

void net_init(struct net *net, const struct net_config *config)
{
	struct platform_net_info info;

	platform_net_info(&info);
	memcpy(net->mac, info.mac, MAC_SIZE);
	net->link_local = (struct ip){ .bytes = { 0xfe, 0x80, [8] = info.mac[0] ^ 2, info.mac[1],
						  info.mac[2], 0xff, 0xfe, info.mac[3],
						  info.mac[4], info.mac[5] } };
	net->mtu = min(info.mtu, MTU_MAX);
	net->config = *config;
	net->now = platform_clock_monotonic();
	platform_random(net->key, sizeof(net->key));
}

void net_announce(struct net *net)
{
	if (net->config.address != 0)
		arp_announce(net);
	if (!ip_is_none(net->config.address6))
		ndp_announce(net);
}

void net_send(struct net *net, const uint8_t *mac, uint16_t type, uint8_t *payload, size_t length)
{
	uint8_t *frame = payload - ETHERNET_HEADER;

	memcpy(frame, mac, MAC_SIZE);
	memcpy(frame + MAC_SIZE, net->mac, MAC_SIZE);
	put16(frame + 2 * MAC_SIZE, type);
	if (platform_net_write(frame, ETHERNET_HEADER + length) == PLATFORM_OK)
		net->counters.frames_out++;
	else
		net->counters.dropped_out++;
}

static void frame_input(struct net *net, const uint8_t *frame, size_t length)
{
	net->counters.frames_in++;
	if (length < ETHERNET_HEADER || (frame[MAC_SIZE] & 1) != 0) {
		net->counters.malformed++; /* nobody sends from a group address */
		return;
	}
	bool ours = memcmp(frame, net->mac, MAC_SIZE) == 0;

	uint16_t type = get16(frame + 2 * MAC_SIZE);

	switch (type) {
	case TYPE_ARP:
		if (ours || memcmp(frame, broadcast, MAC_SIZE) == 0)
			arp_input(net, frame, length);
		break;
	case TYPE_IPV4:
		if (ours) { /* nothing we serve is asked for by broadcast */
			ipv4_input(net, frame, length);
			break;
		}
		/* fallthrough */
	default:
		if ((type == TYPE_IPV6) & (ours | (get16(frame) == GROUPS_IPV6)))
			ipv6_input(net, frame, length);
		else if ((type == TYPE_STORE) & ours & (net->store != NULL))
			store_input(net->store, frame + ETHERNET_HEADER, length - ETHERNET_HEADER);
		else
			net->counters.not_for_us++;
	}
}

uint64_t net_poll(struct net *net)
{
	size_t length;

	net->now = platform_clock_monotonic();
	for (int taken = 0; taken < BATCH; taken++) {
		if (platform_net_read(net->frame_in, FRAME_MAX, &length) != PLATFORM_OK)
			return tcp_poll(net);
		frame_input(net, net->frame_in, length);
	}
	tcp_poll(net);
	return net->now; /* more may be waiting */
}
