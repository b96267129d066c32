/* SPDX-License-Identifier: ISC */
/*
 * The five functions of string.h that the compiler expects of everybody.
 *
 * REP MOVSQ is quick everywhere we run: on hardware, under QEMU's translator
 * (eight bytes for each turn) and where a hypervisor emulates the instruction.
 */
#include "bytes.h"

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	void *result = to;
	size_t words = size / 8, rest = size % 8;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
	return result;
}

void *memmove(void *to, const void *from, size_t size)
{
	uint8_t *target = to;
	const uint8_t *source = from;

	if ((uintptr_t)target - (uintptr_t)source >= size) {
		/* Forwards is right, also for the overlap of moving down. */
		size_t words = size / 8, rest = size % 8;

		__asm__ volatile("rep movsq" : "+D"(target), "+S"(source), "+c"(words) : : "memory");
		__asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(rest) : : "memory");
		return to;
	}
	while (size > 0) {
		size--;
		target[size] = source[size];
	}
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	void *result = to;
	size_t words = size / 8, rest = size % 8;
	uint64_t pattern = (uint8_t)byte * 0x0101010101010101ull;

	__asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(pattern) : "memory");
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(rest) : "a"(pattern) : "memory");
	return result;
}

int memcmp(const void *left, const void *right, size_t size)
{
	const uint8_t *a = left, *b = right;

	for (size_t i = 0; i < size; i++)
		if (a[i] != b[i])
			return a[i] - b[i];
	return 0;
}

size_t strlen(const char *text)
{
	size_t length = 0;

	while (text[length] != '\0')
		length++;
	return length;
}
