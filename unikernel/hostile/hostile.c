/* SPDX-License-Identifier: ISC */
/*
 * A guest of Xen that means harm, for tests of those who have to bear with it. It comes up
 * as others do, shows itself by a frame, and then does as its command line says:
 *
 *	hostile=store-index    counts more requests than a ring holds
 *	hostile=store-rubbish  fills the ring with what are no messages
 *	hostile=store-flood    writes and watches without end
 *	hostile=store-deaf     the same, and takes no reply
 *	hostile=net-index      counts more frames and buffers than a ring holds
 *	hostile=net-rubbish    sends frames that nobody has granted, and one beyond its page
 *	hostile=console-index  counts more bytes than a ring holds
 *	hostile=console-flood  writes without end
 *	word=<path>            a node that a flood of the store writes as well
 */
#include "../platform/xen/netfront.c" /* for what it keeps to itself */

#define CONSOLE_PFN 17 /* hvm/params.h, HVM_PARAM_CONSOLE_PFN */
#define CONSOLE_PORT 18
#define CONSOLE_SIZE 2048u /* io/console.h */
#define MUCH 0x7fffffffu
#define ETHERNET_ARP 0x0806

struct console {
	char in[1024], out[CONSOLE_SIZE];
	uint32_t in_cons, in_prod;
	uint32_t out_cons, out_prod;
};

static _Noreturn void sleep_for_ever(void)
{
	uint32_t port = xenbus_port();

	for (;;) {
		event_clear(port);
		event_wait(&port, 1, 0);
	}
}

/* -- The store -- */

static void store_index(void)
{
	volatile struct store_ring *ring = platform_store_ring();

	ring->req_prod = ring->req_cons + MUCH;
	platform_store_notify();
}

static void store_rubbish(void)
{
	volatile struct store_ring *ring = platform_store_ring();

	for (unsigned i = 0; i < STORE_RING_SIZE; i++)
		ring->req[i] = 0xff;
	compiler_barrier();
	ring->req_prod = ring->req_cons + STORE_RING_SIZE;
	platform_store_notify();
}

static void put(const char *bytes, size_t size, bool deaf)
{
	volatile struct store_ring *ring = platform_store_ring();
	uint32_t produced = ring->req_prod;

	while (size > 0) {
		if (produced - ring->req_cons < STORE_RING_SIZE) {
			ring->req[produced++ % STORE_RING_SIZE] = (uint8_t)*bytes++;
			size--;
			continue;
		}
		compiler_barrier();
		ring->req_prod = produced;
		if (!deaf)
			ring->rsp_cons = ring->rsp_prod;
		platform_store_notify();
	}
	compiler_barrier();
	ring->req_prod = produced;
}

static void request(enum store_type type, const struct text *text, bool deaf)
{
	uint32_t header[4] = { type, 0, 0, (uint32_t)text->length };

	put((const char *)header, sizeof(header), deaf);
	put(text->start, text->length, deaf);
}

static _Noreturn void store_flood(struct slice word, bool deaf)
{
	for (uint64_t number = 0;; number++) {
		char bytes[256];
		struct text text = TEXT_IN(bytes);

		text_string(&text, "data/");
		text_decimal(&text, number);
		text_bytes(&text, "", 1);
		text_decimal(&text, number);
		request(STORE_WRITE, &text, deaf);
		text_bytes(&text, "", 1);
		request(STORE_WATCH, &text, deaf);
		if (word.length == 0)
			continue;
		text.length = 0;
		text_bytes(&text, word.start, word.length);
		text_bytes(&text, "", 1);
		text_decimal(&text, number);
		request(STORE_WRITE, &text, deaf);
	}
}

/* -- The network -- */

static void net_index(void)
{
	device.rx->header.req_prod += MUCH;
	device.tx->header.req_prod += MUCH;
	event_send(device.port);
}

static void net_rubbish(void)
{
	uint32_t produced = device.tx->header.req_prod;

	for (unsigned i = 0; i < NETIF_RING - 1; i++)
		device.tx->entry[(produced + i) % NETIF_RING].request = (struct netif_tx_request){
			.gref = i % 2 ? MUCH : GRANTS_USED + i, .id = (uint16_t)i, .size = 60
		};
	device.tx->entry[(produced + 8) % NETIF_RING].request = (struct netif_tx_request){
		.gref = GRANT_TX_PAGES, .offset = 0xffff, .size = 0xffff
	};
	compiler_barrier();
	device.tx->header.req_prod = produced + NETIF_RING - 1;
	event_send(device.port);
}

/* -- The console -- */

static volatile struct console *console(void)
{
	return (volatile struct console *)(hypervisor_parameter(CONSOLE_PFN) * PAGE);
}

static void console_index(void)
{
	while (console()->out_cons != console()->out_prod)
		compiler_barrier(); /* what was said before would be lost as well */
	console()->out_prod = console()->out_cons + MUCH;
	event_send((uint32_t)hypervisor_parameter(CONSOLE_PORT));
}

static _Noreturn void console_flood(void)
{
	static const char line[] = "\n{\"event\": \"forged\"}\033[2J\r";
	uint32_t port = (uint32_t)hypervisor_parameter(CONSOLE_PORT);

	for (unsigned i = 0; i < CONSOLE_SIZE; i++)
		console()->out[i] = line[i % (sizeof(line) - 1)];
	for (;;) {
		console()->out_prod = console()->out_cons + CONSOLE_SIZE;
		event_send(port);
	}
}

/* -- All of it -- */

static void come_up(void)
{
	struct platform_net_info info;
	uint8_t frame[60];

	platform_net_info(&info);
	while (!platform_net_up()) {
		wait_for_store();
		store_poll(&xenbus);
	}
	store_poll(&xenbus);
	memset(frame, 0, sizeof(frame));
	memset(frame, 0xff, 6);
	memcpy(frame + 6, info.mac, 6);
	put16(frame + 12, ETHERNET_ARP);
	platform_net_write(frame, sizeof(frame));
	while (device.tx->header.rsp_prod != device.tx_produced)
		compiler_barrier(); /* it is to be seen before there is any harm */
}

static struct slice option(const char *cmdline, const char *name)
{
	struct slice rest = { cmdline, strlen(cmdline) }, found = { "", 0 };

	while (rest.length > 0) {
		struct slice word = slice_cut(&rest, ' ');

		if (slice_starts(word, name))
			found = slice_from(word, strlen(name));
	}
	return found;
}

int app_main(const struct platform_start_info *info)
{
	struct slice harm = option(info->cmdline, "hostile="), word = option(info->cmdline, "word=");

	come_up();
	console_string("hostile: ");
	platform_console_write(harm.start, harm.length);
	console_string("\n");
	if (slice_is(harm, "store-index"))
		store_index();
	else if (slice_is(harm, "store-rubbish"))
		store_rubbish();
	else if (slice_is(harm, "store-flood") || slice_is(harm, "store-deaf"))
		store_flood(word, slice_is(harm, "store-deaf"));
	else if (slice_is(harm, "net-index"))
		net_index();
	else if (slice_is(harm, "net-rubbish"))
		net_rubbish();
	else if (slice_is(harm, "console-index"))
		console_index();
	else if (slice_is(harm, "console-flood"))
		console_flood();
	else
		return 2;
	sleep_for_ever();
}
