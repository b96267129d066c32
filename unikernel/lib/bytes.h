/* SPDX-License-Identifier: ISC */
/*
 * Memory, network byte order and text, without a C library.
 *
 * On the wire everything is big-endian and may lie at any address, so it is
 * read and written byte by byte; the compiler makes one instruction of it.
 */
#ifndef BYTES_H
#define BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strlen(const char *text);

static inline uint16_t get16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t get32(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline void put16(uint8_t *to, uint16_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static inline void put32(uint8_t *to, uint32_t value)
{
	put16(to, (uint16_t)(value >> 16));
	put16(to + 2, (uint16_t)value);
}

#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))

/*
 * Text in a buffer of fixed size. What does not fit is cut off, and `cut` says
 * so; there is no terminating NUL.
 */
struct text {
	char *start;
	size_t length;
	size_t capacity;
	bool cut;
};

#define TEXT_IN(array) { .start = (array), .capacity = sizeof(array) }

void text_bytes(struct text *text, const char *bytes, size_t size);
void text_string(struct text *text, const char *string);
void text_decimal(struct text *text, uint64_t value);
void text_hex(struct text *text, uint64_t value, unsigned digits);
void text_address(struct text *text, uint32_t address);
void text_address6(struct text *text, const uint8_t address[16]);

/* A piece of somebody else's text. */
struct slice {
	const char *start;
	size_t length;
};

#define SLICE(literal) { (literal), sizeof(literal) - 1 }

/* In place, since for a constant string the compiler leaves two comparisons. */
static inline bool slice_is(struct slice slice, const char *string)
{
	return slice.length == strlen(string) && memcmp(slice.start, string, slice.length) == 0;
}

static inline bool slice_equal(struct slice left, struct slice right)
{
	return left.length == right.length && memcmp(left.start, right.start, left.length) == 0;
}

bool slice_equal_caseless(struct slice slice, struct slice lower); /* `lower` is in lower case */

static inline bool slice_is_caseless(struct slice slice, const char *lower)
{
	return slice_equal_caseless(slice, (struct slice){ lower, strlen(lower) });
}

bool slice_starts(struct slice slice, const char *prefix);
struct slice slice_from(struct slice slice, size_t offset);
/* Takes what is before the first `separator` (or all) off the front of *rest. */
struct slice slice_cut(struct slice *rest, char separator);
/* The whole slice as a decimal number; false if it is empty, not a number or too big. */
bool slice_decimal(struct slice slice, uint64_t *value);
/* The whole slice as an IPv4 address in dotted decimal. */
bool slice_address(struct slice slice, uint32_t *address);

#endif
