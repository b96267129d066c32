/* SPDX-License-Identifier: ISC */
/* Addresses of both families, and the two ends of a conversation. */
#ifndef IP_H
#define IP_H

#include "bytes.h"

#define MAC_SIZE 6

/*
 * As on the wire. One of IPv4 is ::ffff:a.b.c.d (RFC 4291 2.5.5.2), which nobody may
 * use on the wire. So one comparison, one hash and one checksum do for both: the ffff
 * does not even change the sum. All zeros is no address.
 */
struct ip {
	union {
		uint8_t bytes[16];
		uint64_t word[2];
	};
};

/* Where an answer goes, and what it comes from. */
struct ip_ends {
	struct ip theirs, ours;
	uint8_t mac[MAC_SIZE]; /* of the next hop to them */
};

/* From four bytes of a frame. */
static inline struct ip ip_from_v4(const uint8_t *bytes)
{
	uint32_t address;

	__builtin_memcpy(&address, bytes, sizeof(address));
	return (struct ip){ .word = { 0, (uint64_t)address << 32 | 0xffff0000 } };
}

/* From sixteen bytes of a frame. */
static inline struct ip ip_from_v6(const uint8_t *bytes)
{
	struct ip ip;

	__builtin_memcpy(&ip, bytes, sizeof(ip));
	return ip;
}

/* In host byte order; of an address of IPv4. */
static inline uint32_t ip_to_v4(struct ip ip)
{
	return get32(ip.bytes + 12);
}

static inline bool ip_is_v4(struct ip ip)
{
	return (ip.word[0] == 0) & ((uint32_t)ip.word[1] == 0xffff0000);
}

static inline bool ip_equal(struct ip a, struct ip b)
{
	return ((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1])) == 0;
}

static inline bool ip_is_none(struct ip ip)
{
	return (ip.word[0] | ip.word[1]) == 0;
}

static inline bool ip_is_multicast(struct ip ip) /* of IPv6 */
{
	return ip.bytes[0] == 0xff;
}

static inline bool ip_is_link_local(struct ip ip) /* of IPv6 */
{
	return (ip.bytes[0] == 0xfe) & (ip.bytes[1] >> 6 == 2);
}

#endif
