/* SPDX-License-Identifier: ISC */
#include "bytes.h"

void text_bytes(struct text *text, const char *bytes, size_t size)
{
	size_t room = text->capacity - text->length;

	if (size > room) {
		size = room;
		text->cut = true;
	}
	memcpy(text->start + text->length, bytes, size);
	text->length += size;
}

void text_string(struct text *text, const char *string)
{
	text_bytes(text, string, strlen(string));
}

void text_decimal(struct text *text, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	text_bytes(text, digits + at, sizeof(digits) - at);
}

void text_hex(struct text *text, uint64_t value, unsigned digits)
{
	while (digits > 0) {
		digits--;
		text_bytes(text, &"0123456789abcdef"[value >> (4 * digits) & 15], 1);
	}
}

void text_address(struct text *text, uint32_t address)
{
	for (int shift = 24; shift >= 0; shift -= 8) {
		text_decimal(text, address >> shift & 0xff);
		if (shift > 0)
			text_string(text, ".");
	}
}

/* All eight numbers: the short form with "::" is for people who type. */
void text_address6(struct text *text, const uint8_t address[16])
{
	for (int i = 0; i < 16; i += 2) {
		uint16_t number = get16(address + i);

		if (i > 0)
			text_string(text, ":");
		text_hex(text, number, 1u + (number > 0xf) + (number > 0xff) + (number > 0xfff));
	}
}

bool slice_equal_caseless(struct slice slice, struct slice lower)
{
	if (slice.length != lower.length)
		return false;
	for (size_t i = 0; i < slice.length; i++) {
		uint8_t letter = (uint8_t)slice.start[i];
		bool upper = (uint8_t)(letter - 'A') < 26;

		if ((letter | upper << 5) != (uint8_t)lower.start[i])
			return false;
	}
	return true;
}

bool slice_starts(struct slice slice, const char *prefix)
{
	size_t length = strlen(prefix);

	return slice.length >= length && memcmp(slice.start, prefix, length) == 0;
}

struct slice slice_from(struct slice slice, size_t offset)
{
	offset = min(offset, slice.length);
	return (struct slice){ slice.start + offset, slice.length - offset };
}

struct slice slice_cut(struct slice *rest, char separator)
{
	size_t length = 0;
	struct slice piece;

	while (length < rest->length && rest->start[length] != separator)
		length++;
	piece = (struct slice){ rest->start, length };
	*rest = slice_from(*rest, length + 1);
	return piece;
}

bool slice_decimal(struct slice slice, uint64_t *value)
{
	uint64_t result = 0;

	if (slice.length == 0)
		return false;
	for (size_t i = 0; i < slice.length; i++) {
		unsigned digit = (unsigned)(uint8_t)slice.start[i] - '0';

		if (digit > 9 || result > (UINT64_MAX - digit) / 10)
			return false;
		result = result * 10 + digit;
	}
	*value = result;
	return true;
}

bool slice_address(struct slice slice, uint32_t *address)
{
	uint32_t result = 0;

	for (int i = 0; i < 4; i++) {
		uint64_t byte;

		if (!slice_decimal(slice_cut(&slice, '.'), &byte) || byte > 255)
			return false;
		result = result << 8 | (uint32_t)byte;
	}
	*address = result;
	return slice.length == 0;
}
