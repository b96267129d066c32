/* SPDX-License-Identifier: ISC */
/*
 * The Internet checksum. One's complement addition does not care about byte
 * order (RFC 1071 2.B), so data is added as little-endian words of four bytes
 * and the two bytes of the result are swapped once, at the end.
 */
#include "net.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checksum() swaps");

static uint16_t finish(uint64_t sum, const uint8_t *data, size_t length)
{
	uint32_t word;

	/* 64 bits hold the sum of 2^32 words: frames are far shorter. */
	for (; length >= sizeof(word); data += sizeof(word), length -= sizeof(word)) {
		__builtin_memcpy(&word, data, sizeof(word));
		sum += word;
	}
	for (size_t i = 0; i < length; i++)
		sum += (uint64_t)data[i] << (8 * i);
	/* Halved twice, and each time once more for the carry. */
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return __builtin_bswap16((uint16_t)~sum);
}

uint16_t checksum(const uint8_t *data, size_t length)
{
	return finish(0, data, length);
}

static uint64_t sum_of(struct ip ip)
{
	return (uint32_t)ip.word[0] + (ip.word[0] >> 32) + (uint32_t)ip.word[1] +
	       (ip.word[1] >> 32);
}

/*
 * RFC 9293 3.1 and RFC 8200 8.1 in one: they add the same numbers in another order.
 * What marks an address of IPv4 adds ffff, which is the other zero.
 */
uint16_t checksum_of(const struct ip_ends *ends, uint8_t protocol, const uint8_t *data,
		     size_t length)
{
	uint32_t last = (uint32_t)protocol << 16 | (uint16_t)length;

	return finish(sum_of(ends->theirs) + sum_of(ends->ours) + __builtin_bswap32(last), data,
		      length);
}
