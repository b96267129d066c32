/* SPDX-License-Identifier: ISC */
/* A network device whose frames the test gives and takes, and no store but over them. */
#include "host_guest.h"
#include "store.h"

#include <stdlib.h>

#define QUEUE_SIZE 1024
#define FRAME_SIZE 1514

struct queue {
	unsigned head, tail; /* count up for ever; the slot is the remainder */
	struct {
		size_t size;
		uint8_t data[FRAME_SIZE];
	} slot[QUEUE_SIZE];
};

struct wire {
	struct queue to_guest, from_guest;
};

static struct wire *wire_of(struct host_guest *guest)
{
	void **wire = host_devices(guest);

	if (*wire == NULL)
		*wire = calloc(1, sizeof(struct wire));
	if (*wire == NULL)
		abort();
	return *wire;
}

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
	return queue_push(&wire_of(NULL)->from_guest, frame, size) ? PLATFORM_OK : PLATFORM_AGAIN;
}

enum platform_result platform_net_read(uint8_t *buffer, size_t size, size_t *read_size)
{
	size_t taken = queue_pop(&wire_of(NULL)->to_guest, buffer, size);

	if (taken == 0)
		return PLATFORM_AGAIN;
	*read_size = taken;
	return PLATFORM_OK;
}

void platform_yield(uint64_t deadline)
{
	const struct wire *wire = wire_of(NULL);

	if (wire->to_guest.head == wire->to_guest.tail)
		host_wait(deadline);
}

bool host_give(struct host_guest *guest, const uint8_t *frame, size_t size)
{
	return queue_push(&wire_of(guest)->to_guest, frame, size);
}

size_t host_take(struct host_guest *guest, uint8_t *frame, size_t size)
{
	return queue_pop(&wire_of(guest)->from_guest, frame, size);
}
