/* SPDX-License-Identifier: ISC */
/* What a test calls; tests/unikernel/guest.py declares the same to ctypes. */
#ifndef HOST_H
#define HOST_H

#include "platform.h"

struct host_guest;

/* A guest that has not run yet. The same seed gives the same random numbers. */
struct host_guest *host_new(const char *cmdline, uint64_t seed, size_t heap_size);
/* The same with another app than the image's. */
struct host_guest *host_new_app(const char *cmdline, uint64_t seed, size_t heap_size,
				int (*app)(const struct platform_start_info *info));
void host_free(struct host_guest *guest);

/* Lets the guest run at time `now` until it waits; returns until when it would. */
uint64_t host_run(struct host_guest *guest, uint64_t now);

/* A frame to the guest; false if its queue is full. And one from it; 0: there is none. */
bool host_give(struct host_guest *guest, const uint8_t *frame, size_t size);
size_t host_take(struct host_guest *guest, uint8_t *frame, size_t size);

/* -1 while it runs, then what it gave platform_exit(). */
int host_status(const struct host_guest *guest);
/* All it has said so far; returns how many bytes that is. */
size_t host_console(const struct host_guest *guest, char *text, size_t size);
void *host_heap(struct host_guest *guest);
/* Bytes of its heap, in pages, that it has read or written so far. */
size_t host_touched(struct host_guest *guest);

/* -- store.c: an app that asks the store what it is told to -- */

enum host_store_event {
	HOST_STORE_DONE,
	HOST_STORE_FAILED,
	HOST_STORE_LOST,
	HOST_STORE_WATCH, /* two of them: the path, then the token */
	HOST_STORE_ANEW   /* a new session */
};

struct host_guest *host_new_asker(uint64_t seed);
/* Once it has run; false if it has too much under way. */
bool host_store_request(struct host_guest *guest, uint8_t tag, uint32_t type, const char *payload,
			size_t size);
/* What has come since the last call: event, tag, 16 bits of length, payload, and so on. */
size_t host_store_events(struct host_guest *guest, uint8_t *events, size_t size);
uint64_t host_store_rubbish(struct host_guest *guest);

/* -- xen.c: the guest with the drivers of platform/xen, in a library of its own -- */

struct host_guest *host_new_xen(const char *cmdline, uint64_t seed, size_t heap_size);
void *host_xen_ring(void);
void *host_xen_page(struct host_guest *guest, uint32_t reference);

#endif
