/* SPDX-License-Identifier: ISC */
/*
 * The network device: the frontend of Xen's netif (io/netif.h).
 *
 * It is found in the store, and all that finding it takes goes out in one breath: what we
 * read, and what we write that needs no answer. The answer to the first two questions,
 * who and where the backend is, draws the rest, the last of it being our state. Nothing
 * of what the backend offers would change what we say, so we do not wait until it offers;
 * and the state is what it looks at, so what comes before needs no transaction.
 *
 *	us                                         the store, and the backend behind it
 *	read backend, backend-id, mac, mtu;  --->
 *	write the rings, and what we can
 *	write event-channel, state = 4;      --->  maps the rings, connects
 *	watch its state                      <---  state = 4: the link is up
 *
 * Without the features that we do not name, frames come whole, with their checksums.
 *
 * Received frames have a page each, since the backend fills it from its start. Frames to
 * send are copied into halves of pages, which are given back in any order: the backend may
 * hold a page for as long as somebody reads from it. All is granted once and for good.
 *
 * The backend is trusted with these pages and not to speak sense: what it writes is read
 * once, and an index or an identifier that cannot be stops the device for good.
 */
#include "netif.h"
#include "xen.h"

#define DEVICE "device/vif/0/"
#define BACKEND_MAX 128

#define RX_BUFFERS 128u
#define TX_BUFFERS 128u
#define TX_SIZE (PAGE / 2)
#define FRAME_MIN 14
#define MTU_ETHERNET 1500
#define MTU_LEAST 68 /* RFC 791's */

/* A full ring is given this long to move before the frame is given up. */
#define SEND_PATIENCE 2000000ull /* ns */

/* Grants: both rings, then the pages to receive into, then those to send from. */
enum {
	GRANT_TX = GRANTS_RESERVED,
	GRANT_RX,
	GRANT_RX_PAGES,
	GRANT_TX_PAGES = GRANT_RX_PAGES + RX_BUFFERS,
	GRANTS_USED = GRANT_TX_PAGES + TX_BUFFERS / 2
};

_Static_assert(GRANTS_USED <= GRANTS, "one page of grants");
_Static_assert(sizeof(struct netif_tx_ring) <= PAGE, "io/ring.h");
_Static_assert(sizeof(struct netif_rx_ring) <= PAGE, "io/ring.h");
_Static_assert(sizeof(struct netif_header) == 64, "io/ring.h");

static struct {
	volatile struct netif_tx_ring *tx;
	volatile struct netif_rx_ring *rx;
	uint8_t *rx_pages, *tx_pages;
	uint32_t tx_produced, tx_consumed; /* our copies of the indices */
	uint32_t rx_produced, rx_consumed;
	uint16_t tx_free_count;
	uint8_t tx_free[TX_BUFFERS]; /* a stack of identifiers */
	bool tx_taken[TX_BUFFERS], rx_offered[RX_BUFFERS];
	uint32_t port;
	bool known; /* mac and mtu */
	bool up, stopped, in_frame; /* the rest of a frame that is dropped comes */
	const char *error;
	struct platform_net_info info;
	uint64_t dropped; /* frames that are longer than we can take, or failed */
	size_t backend_length;
	char backend[BACKEND_MAX];
} device;

/* -- The store -- */

static void fails(const char *reason)
{
	if (device.error == NULL)
		device.error = reason;
}

static void on_written(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)payload;
	if (result != STORE_DONE)
		fails("the store does not take what the network device needs");
}

static void write_key(const char *path, const char *value)
{
	store_write(&xenbus, path, (struct slice){ value, strlen(value) }, on_written, NULL);
}

static void write_number(const char *path, uint32_t number)
{
	char digits[10];
	struct text text = TEXT_IN(digits);

	text_decimal(&text, number);
	store_write(&xenbus, path, (struct slice){ text.start, text.length }, on_written, NULL);
}

static void push_requests(void);

static void on_state(void *context, enum store_result result, struct slice payload)
{
	uint64_t state;

	(void)context;
	if (result != STORE_DONE || !slice_decimal(payload, &state))
		return;
	if ((state == STATE_CONNECTED) & (!device.up)) {
		device.up = true;
		push_requests();
		xenbus_watch_shutdown();
	}
	if (state >= STATE_CLOSING)
		device.stopped = true;
}

static const char *backend_state(void)
{
	static char path[BACKEND_MAX + sizeof("/state")];

	memcpy(path, device.backend, device.backend_length);
	memcpy(path + device.backend_length, "/state", sizeof("/state"));
	return path;
}

void netfront_state_changed(void)
{
	store_read(&xenbus, backend_state(), on_state, NULL);
}

static void on_backend(void *context, enum store_result result, struct slice payload)
{
	(void)context;
	if (result != STORE_DONE || payload.length == 0 || payload.length > BACKEND_MAX) {
		fails("no network device (device/vif/0)");
		return;
	}
	device.backend_length = payload.length;
	memcpy(device.backend, payload.start, payload.length);
}

static void grant_all(uint16_t domain)
{
	grant_access(GRANT_TX, domain, device.tx, 0);
	grant_access(GRANT_RX, domain, device.rx, 0);
	for (unsigned i = 0; i < RX_BUFFERS; i++)
		grant_access(GRANT_RX_PAGES + i, domain, device.rx_pages + i * PAGE, 0);
	for (unsigned i = 0; i < TX_BUFFERS / 2; i++)
		grant_access(GRANT_TX_PAGES + i, domain, device.tx_pages + i * PAGE,
			     GRANT_READONLY);
}

static void ignore(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)result, (void)payload;
}

/* The second answer, so the backend's path is there. */
static void on_backend_id(void *context, enum store_result result, struct slice payload)
{
	uint64_t domain;

	(void)context;
	if (result != STORE_DONE || !slice_decimal(payload, &domain) || domain >= DOMAIN_MAX)
		fails("device/vif/0/backend-id is no domain");
	if (device.error != NULL)
		return;
	device.port = event_open((uint16_t)domain);
	if (device.port == 0) {
		fails("no event channel for the network device");
		return;
	}
	grant_all((uint16_t)domain);
	write_number(DEVICE "event-channel", device.port);
	write_key(DEVICE "state", "4");
	store_watch(&xenbus, backend_state(), "state", ignore, NULL);
}

static bool parse_mac(struct slice text, uint8_t mac[6])
{
	for (int i = 0; i < 6; i++) {
		struct slice byte = slice_cut(&text, ':');
		unsigned value = 0;

		if (byte.length != 2)
			return false;
		for (int at = 0; at < 2; at++) {
			char c = byte.start[at];
			char lower = (char)(c | 0x20);

			if (c >= '0' && c <= '9')
				value = value << 4 | (unsigned)(c - '0');
			else if (lower >= 'a' && lower <= 'f')
				value = value << 4 | (unsigned)(lower - 'a' + 10);
			else
				return false;
		}
		mac[i] = (uint8_t)value;
	}
	return text.length == 0;
}

static void on_mac(void *context, enum store_result result, struct slice payload)
{
	(void)context;
	if (result != STORE_DONE || !parse_mac(payload, device.info.mac))
		fails("device/vif/0/mac is no address");
}

/* It may be missing. The last question, so what we have to know we know. */
static void on_mtu(void *context, enum store_result result, struct slice payload)
{
	uint64_t mtu;

	(void)context;
	device.info.mtu = MTU_ETHERNET;
	if (result == STORE_DONE && slice_decimal(payload, &mtu))
		device.info.mtu = (uint16_t)max(min(mtu, MTU_ETHERNET), MTU_LEAST);
	device.known = true;
}

static void ask(void)
{
	store_read(&xenbus, DEVICE "backend", on_backend, NULL);
	store_read(&xenbus, DEVICE "backend-id", on_backend_id, NULL);
	store_read(&xenbus, DEVICE "mac", on_mac, NULL);
	store_read(&xenbus, DEVICE "mtu", on_mtu, NULL);
	write_number(DEVICE "tx-ring-ref", GRANT_TX);
	write_number(DEVICE "rx-ring-ref", GRANT_RX);
	write_key(DEVICE "request-rx-copy", "1");
	write_key(DEVICE "feature-rx-notify", "1");
	write_key(DEVICE "feature-no-csum-offload", "1");
	store_poll(&xenbus);
}

/* -- The rings -- */

/* The backend wants to hear of it if its event is among what is new. */
static void publish(volatile struct netif_header *header, uint32_t produced)
{
	uint32_t old = header->req_prod;

	compiler_barrier(); /* the entries are written before the index that shows them */
	header->req_prod = produced;
	memory_barrier(); /* and that before we look whether the backend sleeps */
	if ((uint32_t)(produced - header->req_event) < (uint32_t)(produced - old))
		event_send(device.port);
}

/* What was kept until the link is up. */
static void push_requests(void)
{
	publish(&device.tx->header, device.tx_produced);
}

/* How many responses wait; none for ever, once there are more than can be. */
static uint32_t responses(volatile struct netif_header *header, uint32_t produced,
			  uint32_t consumed)
{
	uint32_t waiting = header->rsp_prod - consumed;

	if (waiting > produced - consumed)
		device.stopped = true;
	compiler_barrier(); /* the index is read before the entries it shows */
	return device.stopped ? 0 : waiting;
}

static void offer(uint16_t id)
{
	volatile struct netif_rx_request *request =
		&device.rx->entry[device.rx_produced++ % NETIF_RING].request;

	request->id = id;
	request->gref = GRANT_RX_PAGES + id;
	device.rx_offered[id] = true;
}

bool netfront_waiting(void)
{
	return (!device.stopped) & (device.rx->header.rsp_prod != device.rx_consumed);
}

void netfront_watch(void)
{
	device.rx->header.rsp_event = device.rx_consumed + 1;
	memory_barrier(); /* from here on a frame sends an event; one before it is seen now */
}

uint32_t netfront_port(void)
{
	return device.port;
}

static volatile void *take_page(uintptr_t *heap)
{
	uintptr_t page = *heap;

	*heap += PAGE;
	return (volatile void *)page;
}

const char *netfront_init(uintptr_t *heap, uintptr_t end)
{
	size_t pages = 2 + RX_BUFFERS + TX_BUFFERS / 2;

	memset(&device, 0, sizeof(device));
	if (end - *heap < pages * PAGE)
		return "not enough memory for the network device";
	device.tx = take_page(heap);
	device.rx = take_page(heap);
	device.rx_pages = (uint8_t *)*heap;
	*heap += RX_BUFFERS * PAGE;
	device.tx_pages = (uint8_t *)*heap;
	*heap += TX_BUFFERS / 2 * PAGE;
	device.tx->header.req_event = device.rx->header.req_event = 1;
	device.rx->header.rsp_event = 1; /* of what we have sent we want to hear only when asked */
	for (uint16_t i = 0; i < RX_BUFFERS; i++)
		offer(i);
	device.rx->header.req_prod = device.rx_produced;
	for (uint16_t i = 0; i < TX_BUFFERS; i++)
		device.tx_free[device.tx_free_count++] = (uint8_t)i;
	ask();
	return NULL;
}

/* -- Frames -- */

void platform_net_info(struct platform_net_info *info)
{
	while (!device.known && device.error == NULL && !xenbus.broken) {
		wait_for_store();
		store_poll(&xenbus);
	}
	if (!device.known)
		fails("the store speaks nonsense");
	if (device.error != NULL) {
		console_string("jitsu: ");
		console_string(device.error);
		console_string("\n");
		platform_exit(1);
	}
	*info = device.info;
}

bool platform_net_up(void)
{
	return device.up;
}

/* Copies the frame of a response out; false if it has none for us. */
static bool take(const struct netif_rx_response *response, uint8_t *buffer, size_t size,
		 size_t *read_size)
{
	bool more = (response->flags & NETRXF_MORE_DATA) != 0;
	bool whole = (!device.in_frame) & (!more) & (response->status >= FRAME_MIN);
	size_t length = (size_t)response->status;

	device.in_frame = more;
	if (!whole || response->offset > PAGE || length > PAGE - response->offset || length > size) {
		device.dropped++;
		return false;
	}
	memcpy(buffer, device.rx_pages + response->id * PAGE + response->offset, length);
	*read_size = length;
	return true;
}

enum platform_result platform_net_read(uint8_t *buffer, size_t size, size_t *read_size)
{
	volatile struct netif_rx_ring *ring = device.rx;

	while (responses(&ring->header, device.rx_produced, device.rx_consumed) > 0) {
		struct netif_rx_response response =
			ring->entry[device.rx_consumed++ % NETIF_RING].response;
		bool good;

		/* Extra information has no identifier, and we have asked for none. */
		if (response.id >= RX_BUFFERS || !device.rx_offered[response.id] ||
		    (response.flags & NETRXF_EXTRA_INFO) != 0) {
			device.stopped = true;
			break;
		}
		device.rx_offered[response.id] = false;
		good = take(&response, buffer, size, read_size);
		offer(response.id);
		publish(&ring->header, device.rx_produced);
		if (good)
			return PLATFORM_OK;
	}
	return PLATFORM_AGAIN;
}

/* Takes back what the backend has sent; true if there is room. */
static bool send_has_room(void)
{
	volatile struct netif_tx_ring *ring = device.tx;

	while (responses(&ring->header, device.tx_produced, device.tx_consumed) > 0) {
		uint16_t id = ring->entry[device.tx_consumed++ % NETIF_RING].response.id;

		if (id >= TX_BUFFERS || !device.tx_taken[id]) {
			device.stopped = true;
			return false;
		}
		device.tx_taken[id] = false;
		device.tx_free[device.tx_free_count++] = (uint8_t)id;
	}
	return device.tx_free_count > 0;
}

static bool wait_for_room(void)
{
	uint64_t until;

	if (send_has_room())
		return true;
	if (device.stopped | !device.up)
		return false;
	until = platform_clock_monotonic() + SEND_PATIENCE;
	do {
		device.tx->header.rsp_event = device.tx_consumed + 1;
		memory_barrier();
		if (send_has_room())
			return true;
		wait_for_device(until);
	} while (platform_clock_monotonic() < until);
	return send_has_room();
}

enum platform_result platform_net_write(const uint8_t *frame, size_t size)
{
	volatile struct netif_tx_request *request;
	uint16_t id;

	if (size < FRAME_MIN || size > FRAME_MIN + (size_t)device.info.mtu)
		return PLATFORM_EINVAL;
	if (device.stopped || !wait_for_room())
		return PLATFORM_AGAIN;
	id = device.tx_free[--device.tx_free_count];
	device.tx_taken[id] = true;
	memcpy(device.tx_pages + id * TX_SIZE, frame, size);
	request = &device.tx->entry[device.tx_produced++ % NETIF_RING].request;
	request->gref = GRANT_TX_PAGES + id / 2;
	request->offset = (uint16_t)(id % 2 * TX_SIZE);
	request->flags = 0;
	request->id = id;
	request->size = (uint16_t)size;
	if (device.up)
		publish(&device.tx->header, device.tx_produced);
	return PLATFORM_OK;
}
