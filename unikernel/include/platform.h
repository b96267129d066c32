/* SPDX-License-Identifier: ISC */
/*
 * The one contract between a guest and whatever runs it.
 *
 * Everything in net/, store/ and apps/ is written against this file alone. Each folder
 * under platform/ implements it once: virtio/ (QEMU microvm), xen/ (PVH), host/ (a
 * shared library that tests drive). The shape is Solo5's solo5.h, so that its hvt and
 * spt targets each fit in one more folder.
 *
 * The guest is single-threaded. No call here is ever made from an interrupt,
 * and none of them calls back into the guest. Unless a call says otherwise it
 * cannot fail, it does not block, and pointers need not outlive it.
 *
 * There is no wall clock on purpose: microvm without RTC has none, and a server
 * without a clock must not send a Date (RFC 9110 6.6.1), so nothing needs one.
 */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a call that may fail returns. */
enum platform_result {
	PLATFORM_OK,	/* done */
	PLATFORM_AGAIN, /* cannot be done now; nothing has changed; try later */
	PLATFORM_EINVAL /* never can be done: an argument is out of range */
};

/*
 * What the guest is told at its start. The pointers are good for its whole life;
 * the heap overlaps nothing else: not the guest's code, its data or its stack.
 */
struct platform_start_info {
	const char *name;    /* of the platform, for people: "virtio" */
	const char *cmdline; /* ends with NUL; never NULL; may be empty */
	void *heap_start;    /* memory for the guest to divide; filled with zeros; */
	size_t heap_size;    /* its start is aligned to a page of 4 KiB. Pages not yet */
			     /* touched may cost nothing: do not touch them early. */
};

/*
 * The guest's entry, defined by an app. Time is near 0 when it is called.
 * Returning `status` is the same as platform_exit(status).
 */
int app_main(const struct platform_start_info *info);

/*
 * Ends the guest; never returns. 0 is success. Where the platform can pass a
 * status on, it does; in any case it says it on the console.
 */
_Noreturn void platform_exit(int status);

/*
 * Writes `size` bytes of text to the console. Best effort: if nobody listens
 * the text is lost. It may be slow (a host's system call for each byte), so
 * nothing is written on a path that has to be fast.
 */
void platform_console_write(const char *text, size_t size);

/*
 * Nanoseconds since the guest was entered. Never goes backwards and does not
 * wrap (in 584 years). Its rate is right to 100 parts per million or better
 * once the guest has run for some ten milliseconds; before that to 1 %.
 */
uint64_t platform_clock_monotonic(void);

/*
 * Fills `buffer` with bytes a stranger cannot guess, as good as the platform
 * has them: from the processor's generator, or else from timing. Meant for
 * keys of hashes, not for long-lived secrets.
 */
void platform_random(void *buffer, size_t size);

/* The guest's only network device, the same at each call. The first may wait for it. */
struct platform_net_info {
	uint8_t mac[6];
	uint16_t mtu; /* largest payload of a frame; the frame itself is mtu + 14 */
};
void platform_net_info(struct platform_net_info *info);

/*
 * Whether frames leave at once, which never changes back. Before that they are kept, as
 * many as the device has room for.
 */
bool platform_net_up(void);

/*
 * Sends one whole Ethernet frame, without its FCS. The frame is copied: the
 * buffer may be reused at once. OK says only that the device has it.
 *
 * AGAIN: the device has no room even after the platform waited a little while.
 *        The caller may treat the frame as lost on the wire.
 * EINVAL: the size is not within 14 .. mtu + 14.
 */
enum platform_result platform_net_write(const uint8_t *frame, size_t size);

/*
 * Receives one whole Ethernet frame into `buffer` and sets *read_size. A frame
 * longer than `size` never shows up: the platform drops it.
 *
 * AGAIN: no frame is waiting; *read_size is unchanged.
 */
enum platform_result platform_net_read(uint8_t *buffer, size_t size, size_t *read_size);

/*
 * Gives the processor away until a frame is waiting, the store's ring has news (where
 * there is one: store/ring.h) or the clock reaches `deadline`, whichever is first;
 * PLATFORM_NEVER is no time at all. It may return early and for no reason, so look at the clock and read again. It
 * returns at once if a frame is waiting already. An idle guest costs nothing.
 */
#define PLATFORM_NEVER UINT64_MAX
void platform_yield(uint64_t deadline);

#endif
