/* SPDX-License-Identifier: ISC */
/*
 * virtio-net over MMIO, version 1 ("modern").
 *
 * Two rings of fixed buffers. Buffer i always belongs to descriptor i, so a
 * frame is copied in or out of it and nothing is ever allocated. The device is
 * trusted with the memory we tell it of, as it must be, but not to speak sense:
 * identifiers and lengths it gives back are checked.
 *
 * The device is told of a frame only if it asks to be, and interrupts us only
 * while we sleep. No offload is negotiated: each frame stands for itself.
 */
#include "board.h"
#include "virtio.h"

/* Powers of two, at most QEMU's default of 256. 128 frames is 10 ms at 150 Mbit/s. */
#define RECEIVE_BUFFERS 128
#define SEND_BUFFERS 128
#define RING_MAX 128
#define BUFFER_SIZE 2048
#define VNET_HEADER 12 /* struct virtio_net_hdr (5.1.6); all zero says "nothing special" */
#define FRAME_MIN 14
#define MTU_ETHERNET 1500

/* A full ring is given this long to move before the frame is given up. */
#define SEND_PATIENCE 2000000ull /* ns */

/* Where QEMU's microvm puts its transports, and the lines of their interrupts. */
#define SLOTS_AT 0xfeb00000ul
#define SLOT_SIZE 512
#define SLOTS 8
#define SLOT_LINE 5

struct ring {
	struct descriptor descriptor[RING_MAX];
	struct {
		uint16_t flags, index, entry[RING_MAX];
	} available;
	struct {
		_Alignas(4) uint16_t flags;
		uint16_t index;
		struct used_element entry[RING_MAX];
	} used;
};

_Static_assert(offsetof(struct ring, used.entry) == offsetof(struct ring, used) + 4, "2.7.8");

struct queue {
	volatile struct ring *ring;
	uint8_t *buffers;
	unsigned number;
	uint16_t size;
	uint16_t available; /* our copies of the indices, which count up for ever */
	uint16_t used;
};

enum { RECEIVE, SEND };

static struct {
	uintptr_t base;
	unsigned line;
	struct queue queue[2];
	struct platform_net_info info;
	uint64_t broken; /* answers of the device that made no sense */
} device;

static uint32_t reg_read(unsigned reg)
{
	return mmio_read(device.base + reg);
}

static void reg_write(unsigned reg, uint32_t value)
{
	mmio_write(device.base + reg, value);
}

/* -- Finding the device -- */

static bool is_net(uintptr_t base)
{
	return mmio_read(base + REG_MAGIC) == VIRTIO_MAGIC &&
	       mmio_read(base + REG_VERSION) == VIRTIO_MODERN &&
	       mmio_read(base + REG_DEVICE_ID) == VIRTIO_NET;
}

static bool parse_hex(struct slice text, uintptr_t *value)
{
	if (!slice_starts(text, "0x") || text.length > 10)
		return false;
	*value = 0;
	for (size_t i = 2; i < text.length; i++) {
		char c = text.start[i];
		unsigned digit = c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);

		if (digit > 15)
			return false;
		*value = *value << 4 | digit;
	}
	return true;
}

/* QEMU appends "virtio_mmio.device=512@0xfeb00e00:12" for each device there is. */
static bool find_on_cmdline(const char *cmdline)
{
	struct slice rest = { cmdline, strlen(cmdline) };

	while (rest.length > 0) {
		struct slice value = slice_cut(&rest, ' ');
		struct slice name = slice_cut(&value, '=');
		uintptr_t base;
		uint64_t line;

		if (!slice_is(name, "virtio_mmio.device"))
			continue;
		slice_cut(&value, '@');
		if (!parse_hex(slice_cut(&value, ':'), &base) || !slice_decimal(value, &line))
			continue;
		/* Only there are devices mapped (start.S). */
		if (base >= 0xfe000000 && base % SLOT_SIZE == 0 && is_net(base)) {
			device.base = base;
			device.line = (unsigned)line;
			return true;
		}
	}
	return false;
}

static bool find_by_scanning(void)
{
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		uintptr_t base = SLOTS_AT + slot * SLOT_SIZE;

		if (is_net(base)) {
			device.base = base;
			device.line = SLOT_LINE + slot;
			return true;
		}
	}
	return false;
}

/* -- Setting it up (3.1.1) -- */

static bool negotiate(void)
{
	uint32_t offered;

	reg_write(REG_STATUS, 0);
	reg_write(REG_STATUS, ACKNOWLEDGE | DRIVER);
	reg_write(REG_DEVICE_FEATURES_SELECT, 1);
	if ((reg_read(REG_DEVICE_FEATURES) & FEATURE_VERSION_1) == 0)
		return false;
	reg_write(REG_DEVICE_FEATURES_SELECT, 0);
	offered = reg_read(REG_DEVICE_FEATURES) & (FEATURE_MAC | FEATURE_MTU);
	reg_write(REG_DRIVER_FEATURES_SELECT, 0);
	reg_write(REG_DRIVER_FEATURES, offered);
	reg_write(REG_DRIVER_FEATURES_SELECT, 1);
	reg_write(REG_DRIVER_FEATURES, FEATURE_VERSION_1);
	reg_write(REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	if ((reg_read(REG_STATUS) & FEATURES_OK) == 0 || (offered & FEATURE_MAC) == 0)
		return false;
	for (unsigned i = 0; i < sizeof(device.info.mac); i++)
		device.info.mac[i] = *(volatile uint8_t *)(device.base + REG_CONFIG + i);
	device.info.mtu = MTU_ETHERNET;
	if ((offered & FEATURE_MTU) != 0) {
		uint16_t mtu = *(volatile uint16_t *)(device.base + REG_CONFIG + 10);

		device.info.mtu = max(min(mtu, MTU_ETHERNET), 68); /* RFC 791's least */
	}
	return true;
}

static void set_address(unsigned reg, volatile void *address)
{
	reg_write(reg, (uint32_t)(uintptr_t)address);
	reg_write(reg + 4, (uint32_t)((uintptr_t)address >> 32));
}

static bool queue_init(struct queue *queue, unsigned number, uint16_t size, uint16_t flags)
{
	reg_write(REG_QUEUE_SELECT, number);
	if (reg_read(REG_QUEUE_SIZE_MAX) < size)
		return false;
	queue->number = number;
	queue->size = size;
	for (unsigned i = 0; i < size; i++) {
		queue->ring->descriptor[i].address = (uintptr_t)queue->buffers + i * BUFFER_SIZE;
		queue->ring->descriptor[i].length = BUFFER_SIZE;
		queue->ring->descriptor[i].flags = flags;
	}
	queue->ring->available.flags = AVAILABLE_NO_INTERRUPT;
	reg_write(REG_QUEUE_SIZE, size);
	set_address(REG_QUEUE_DESCRIPTORS, &queue->ring->descriptor);
	set_address(REG_QUEUE_DRIVER, &queue->ring->available);
	set_address(REG_QUEUE_DEVICE, &queue->ring->used);
	reg_write(REG_QUEUE_READY, 1);
	return true;
}

/* Gives descriptor `id` to the device. */
static void queue_offer(struct queue *queue, uint16_t id)
{
	queue->ring->available.entry[queue->available % queue->size] = id;
	compiler_barrier(); /* the entry is written before the index that shows it */
	queue->ring->available.index = ++queue->available;
}

static void queue_notify(struct queue *queue)
{
	memory_barrier(); /* the index is out before we look whether the device sleeps */
	if ((queue->ring->used.flags & USED_NO_NOTIFY) == 0)
		reg_write(REG_QUEUE_NOTIFY, queue->number);
}

static bool take_memory(struct queue *queue, unsigned size, uintptr_t *heap, uintptr_t end)
{
	size_t ring = (sizeof(struct ring) + 4095) & ~4095ul;
	size_t buffers = (size_t)size * BUFFER_SIZE;

	if (end - *heap < ring + buffers)
		return false;
	queue->ring = (volatile struct ring *)*heap;
	queue->buffers = (uint8_t *)*heap + ring;
	*heap += ring + buffers;
	return true;
}

bool virtio_net_init(const char *cmdline, uintptr_t *heap, uintptr_t end)
{
	struct queue *receive = &device.queue[RECEIVE], *send = &device.queue[SEND];

	if (!find_on_cmdline(cmdline) && !find_by_scanning())
		return false;
	if (!take_memory(receive, RECEIVE_BUFFERS, heap, end) ||
	    !take_memory(send, SEND_BUFFERS, heap, end))
		return false;
	if (!negotiate() || !queue_init(receive, RECEIVE, RECEIVE_BUFFERS, DESCRIPTOR_WRITE) ||
	    !queue_init(send, SEND, SEND_BUFFERS, 0)) {
		reg_write(REG_STATUS, FAILED);
		return false;
	}
	for (uint16_t i = 0; i < RECEIVE_BUFFERS; i++)
		queue_offer(receive, i);
	reg_write(REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	queue_notify(receive);
	interrupts_route(device.line);
	return true;
}

/* -- Frames -- */

void platform_net_info(struct platform_net_info *info)
{
	*info = device.info;
}

/* Takes what the device gives back; false if there is nothing. */
static bool queue_take(struct queue *queue, struct used_element *element)
{
	volatile struct used_element *entry = &queue->ring->used.entry[queue->used % queue->size];

	if (queue->ring->used.index == queue->used)
		return false;
	compiler_barrier(); /* the index is read before the entry it shows */
	element->id = entry->id;
	element->length = entry->length;
	queue->used++;
	return true;
}

bool virtio_net_waiting(void)
{
	const struct queue *receive = &device.queue[RECEIVE];

	return receive->ring->used.index != receive->used;
}

enum platform_result platform_net_read(uint8_t *buffer, size_t size, size_t *read_size)
{
	struct queue *receive = &device.queue[RECEIVE];
	struct used_element element;

	while (queue_take(receive, &element)) {
		size_t length = element.length - VNET_HEADER;
		bool good = element.length >= VNET_HEADER + FRAME_MIN && length <= size;

		if (element.id >= RECEIVE_BUFFERS) {
			device.broken++; /* which buffer is lost to us: it cannot be offered again */
			continue;
		}
		if (good) {
			memcpy(buffer, receive->buffers + element.id * BUFFER_SIZE + VNET_HEADER,
			       length);
			*read_size = length;
		}
		queue_offer(receive, (uint16_t)element.id);
		queue_notify(receive);
		if (good)
			return PLATFORM_OK;
	}
	return PLATFORM_AGAIN;
}

/*
 * Send buffers are used in turn, so that only the number of those given back
 * matters, and a device that gives back the wrong one does no harm.
 */
static bool send_has_room(struct queue *send)
{
	uint16_t given_back = send->ring->used.index;

	if ((uint16_t)(send->available - given_back) <= SEND_BUFFERS)
		send->used = given_back;
	else
		device.broken++;
	return (uint16_t)(send->available - send->used) < SEND_BUFFERS;
}

static bool wait_for_room(struct queue *send)
{
	uint64_t until;

	if (send_has_room(send))
		return true;
	until = platform_clock_monotonic() + SEND_PATIENCE;
	while (!send_has_room(send)) {
		if (platform_clock_monotonic() >= until)
			return false;
		__asm__ volatile("pause");
	}
	return true;
}

enum platform_result platform_net_write(const uint8_t *frame, size_t size)
{
	struct queue *send = &device.queue[SEND];
	uint16_t id = send->available % SEND_BUFFERS;

	if (size < FRAME_MIN || size > FRAME_MIN + (size_t)device.info.mtu)
		return PLATFORM_EINVAL;
	if (!wait_for_room(send))
		return PLATFORM_AGAIN;
	memcpy(send->buffers + id * BUFFER_SIZE + VNET_HEADER, frame, size);
	send->ring->descriptor[id].length = (uint32_t)(VNET_HEADER + size);
	queue_offer(send, id);
	queue_notify(send);
	return PLATFORM_OK;
}

/* -- Sleeping -- */

bool virtio_net_watch(void)
{
	device.queue[RECEIVE].ring->available.flags = 0;
	memory_barrier(); /* from here on a frame interrupts; one before it is seen now */
	return !virtio_net_waiting();
}

void virtio_net_unwatch(void)
{
	device.queue[RECEIVE].ring->available.flags = AVAILABLE_NO_INTERRUPT;
	if (!device_interrupted)
		return;
	device_interrupted = 0;
	reg_write(REG_INTERRUPT_ACK, reg_read(REG_INTERRUPT_STATUS));
}
