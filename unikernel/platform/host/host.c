/* SPDX-License-Identifier: ISC */
/*
 * A platform for tests: the guest is an object in a shared library, and frames,
 * time and console belong to whoever loaded it (tests/unikernel/guest.py).
 *
 * The guest runs on a stack of its own, as a coroutine: host_run() switches to
 * it and host_wait() switches back. So app_main() runs here unchanged, and
 * any number of guests can live in one process.
 */
#include "host_guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define STACK_SIZE (256 * 1024)
#define PAGE_SIZE 4096
#define CONSOLE_SIZE 4096

struct host_guest {
	ucontext_t caller, guest;
	uint64_t now, deadline, seed;
	int status; /* -1: runs */
	struct platform_start_info info;
	int (*app)(const struct platform_start_info *info);
	char *cmdline;
	size_t console_size;
	char console[CONSOLE_SIZE];
	void *devices; /* what frames.c or xen.c has of it */
	uint8_t stack[STACK_SIZE];
};

/* The one that runs. */
static struct host_guest *current;

/* -- The contract -- */

void host_wait(uint64_t deadline)
{
	struct host_guest *self = current;

	self->deadline = deadline;
	swapcontext(&self->guest, &self->caller);
}

void platform_exit(int status)
{
	current->status = status;
	for (;;)
		host_wait(PLATFORM_NEVER);
}

void platform_console_write(const char *text, size_t size)
{
	size_t room = CONSOLE_SIZE - current->console_size;

	size = size < room ? size : room;
	memcpy(current->console + current->console_size, text, size);
	current->console_size += size;
}

uint64_t platform_clock_monotonic(void)
{
	return current->now;
}

void platform_random(void *buffer, size_t size)
{
	uint8_t *byte = buffer;

	while (size-- > 0) { /* the same for the same seed: a test can be run again */
		current->seed = current->seed * 6364136223846793005ull + 1442695040888963407ull;
		*byte++ = (uint8_t)(current->seed >> 56);
	}
}

/* -- For the test -- */

static void enter(void)
{
	platform_exit(current->app(&current->info));
}

struct host_guest *host_new(const char *cmdline, uint64_t seed, size_t heap_size)
{
	return host_new_app(cmdline, seed, heap_size, app_main);
}

struct host_guest *host_new_app(const char *cmdline, uint64_t seed, size_t heap_size,
				int (*app)(const struct platform_start_info *info))
{
	struct host_guest *guest = calloc(1, sizeof(*guest));
	void *heap = mmap(NULL, heap_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (guest == NULL || heap == MAP_FAILED)
		abort();
	madvise(heap, heap_size, MADV_NOHUGEPAGE); /* so that host_touched() counts what is used */
	guest->seed = seed;
	guest->status = -1;
	guest->app = app;
	guest->cmdline = strdup(cmdline);
	guest->info = (struct platform_start_info){
		.name = "host",
		.cmdline = guest->cmdline,
		.heap_start = heap,
		.heap_size = heap_size,
	};
	getcontext(&guest->guest);
	guest->guest.uc_stack.ss_sp = guest->stack;
	guest->guest.uc_stack.ss_size = STACK_SIZE;
	makecontext(&guest->guest, enter, 0);
	return guest;
}

void host_free(struct host_guest *guest)
{
	munmap(guest->info.heap_start, guest->info.heap_size);
	free(guest->devices);
	free(guest->cmdline);
	free(guest);
}

uint64_t host_run(struct host_guest *guest, uint64_t now)
{
	if (guest->status >= 0)
		return PLATFORM_NEVER;
	guest->now = now;
	current = guest;
	swapcontext(&guest->caller, &guest->guest);
	current = NULL;
	return guest->status >= 0 ? PLATFORM_NEVER : guest->deadline;
}

int host_status(const struct host_guest *guest)
{
	return guest->status;
}

size_t host_console(const struct host_guest *guest, char *text, size_t size)
{
	size = size < guest->console_size ? size : guest->console_size;
	memcpy(text, guest->console, size);
	return size;
}

void **host_devices(struct host_guest *guest)
{
	return guest != NULL ? &guest->devices : &current->devices;
}

void *host_heap(struct host_guest *guest)
{
	return guest->info.heap_start;
}

size_t host_touched(struct host_guest *guest)
{
	size_t pages = guest->info.heap_size / PAGE_SIZE, touched = 0;
	uint8_t *resident = calloc(pages, 1);

	if (resident == NULL || mincore(guest->info.heap_start, pages * PAGE_SIZE, resident) != 0)
		abort();
	for (size_t i = 0; i < pages; i++)
		touched += resident[i] & 1;
	free(resident);
	return touched * PAGE_SIZE;
}
