/* SPDX-License-Identifier: ISC */
/*
 * A platform for tests: the guest is an object in a shared library, and frames,
 * time and console belong to whoever loaded it (tests/unikernel/guest.py).
 *
 * The guest runs on a stack of its own, as a coroutine: host_run() switches to
 * it and platform_yield() switches back. So app_main() runs here unchanged, and
 * any number of guests can live in one process.
 */
#include "host.h"
#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define STACK_SIZE (256 * 1024)
#define QUEUE_SIZE 1024
#define FRAME_SIZE 1514
#define PAGE_SIZE 4096
#define CONSOLE_SIZE 4096

struct queue {
	unsigned head, tail; /* count up for ever; the slot is the remainder */
	struct {
		size_t size;
		uint8_t data[FRAME_SIZE];
	} slot[QUEUE_SIZE];
};

struct host_guest {
	ucontext_t caller, guest;
	uint64_t now, deadline, seed;
	int status; /* -1: runs */
	struct platform_start_info info;
	int (*app)(const struct platform_start_info *info);
	char *cmdline;
	size_t console_size;
	char console[CONSOLE_SIZE];
	struct queue to_guest, from_guest;
	uint8_t stack[STACK_SIZE];
};

/* The one that runs. */
static struct host_guest *current;

static bool queue_push(struct queue *queue, const uint8_t *data, size_t size)
{
	unsigned slot = queue->tail % QUEUE_SIZE;

	if (queue->tail - queue->head == QUEUE_SIZE || size > FRAME_SIZE)
		return false;
	memcpy(queue->slot[slot].data, data, size);
	queue->slot[slot].size = size;
	queue->tail++;
	return true;
}

/* Returns the size of what was taken, 0 for nothing. */
static size_t queue_pop(struct queue *queue, uint8_t *data, size_t size)
{
	unsigned slot = queue->head % QUEUE_SIZE;

	if (queue->head == queue->tail || queue->slot[slot].size > size)
		return 0;
	queue->head++;
	memcpy(data, queue->slot[slot].data, queue->slot[slot].size);
	return queue->slot[slot].size;
}

/* -- The contract -- */

static void switch_back(void)
{
	struct host_guest *self = current;

	swapcontext(&self->guest, &self->caller);
}

void platform_exit(int status)
{
	current->status = status;
	for (;;)
		switch_back();
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

void platform_net_info(struct platform_net_info *info)
{
	*info = (struct platform_net_info){ .mac = { 2, 0, 0, 0, 0, 0x10 }, .mtu = 1500 };
}

bool platform_net_up(void)
{
	return true;
}

struct store *platform_store(store_handler *handler, void *context)
{
	(void)handler, (void)context;
	return NULL; /* the app inits its own, over frames */
}

enum platform_result platform_net_write(const uint8_t *frame, size_t size)
{
	if (size < 14 || size > FRAME_SIZE)
		return PLATFORM_EINVAL;
	return queue_push(&current->from_guest, frame, size) ? PLATFORM_OK : PLATFORM_AGAIN;
}

enum platform_result platform_net_read(uint8_t *buffer, size_t size, size_t *read_size)
{
	size_t taken = queue_pop(&current->to_guest, buffer, size);

	if (taken == 0)
		return PLATFORM_AGAIN;
	*read_size = taken;
	return PLATFORM_OK;
}

void platform_yield(uint64_t deadline)
{
	if (current->to_guest.head != current->to_guest.tail)
		return;
	current->deadline = deadline;
	switch_back();
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

bool host_give(struct host_guest *guest, const uint8_t *frame, size_t size)
{
	return queue_push(&guest->to_guest, frame, size);
}

size_t host_take(struct host_guest *guest, uint8_t *frame, size_t size)
{
	return queue_pop(&guest->from_guest, frame, size);
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
