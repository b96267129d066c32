/* SPDX-License-Identifier: ISC */
/* What a test calls; tests/unikernel/guest.py declares the same to ctypes. */
#ifndef HOST_H
#define HOST_H

#include "platform.h"

struct host_guest;

/* A guest that has not run yet. The same seed gives the same random numbers. */
struct host_guest *host_new(const char *cmdline, uint64_t seed);
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

#endif
