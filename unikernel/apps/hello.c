/* SPDX-License-Identifier: ISC */
/*
 * The guest of the demo: a web server that was not there until you asked.
 *
 * The announcement is the first frame to leave, and leaves when everything can
 * be served, and the link is up: whoever started us takes it for "ready". Only frames
 * of the store's link may come before, where we have to ask the store for our addresses,
 * or to take over the connections that were opened for us while we booted.
 */
#include "handover.h"
#include "http.h"
#include "options.h"
#include "store.h"

/* The line on the console waits so long: its bytes are a system call of the host's each. */
#define LEISURE (100 * MS)
/* The announcement has said it; the store can wait until the first answers are out. */
#define STORE_LEISURE (10 * MS)
/* <a label of DNS>/<a number> */
#define HANDOFF_MAX 96
/* Of the store's ip: its first five fields are at most 127 bytes, the rest is not ours. */
#define ADDRESS_MAX 128

struct hello {
	bool said_ready;
	bool store_begun;
	uint64_t store_at; /* not before */
	char address[ADDRESS_MAX], handoff[HANDOFF_MAX]; /* that the options point into */
	struct options options;
	struct http http;
	struct store *store; /* the platform's, or our own; NULL: not yet */
	struct store own_store;
	bool asked; /* for connections */
	bool rehearsed, understood;
	bool awaits_link;
	bool announced;
	struct handover handover;
	struct net net;
};

static void console(struct text *text)
{
	text_string(text, "\n");
	platform_console_write(text->start, text->length);
}

static int fail(const char *reason)
{
	char line[128];
	struct text text = TEXT_IN(line);

	text_string(&text, "jitsu: cannot start: ");
	text_string(&text, reason);
	console(&text);
	return 1;
}

static void say_ready(struct hello *hello)
{
	char line[160];
	struct text text = TEXT_IN(line);

	text_string(&text, "jitsu: ");
	text_bytes(&text, hello->options.hostname.start, hello->options.hostname.length);
	text_string(&text, " is ready at ");
	if (hello->options.net.address != 0)
		text_address(&text, hello->options.net.address);
	else
		text_address6(&text, hello->options.net.address6.bytes);
	text_string(&text, " after ");
	text_decimal(&text, hello->http.boot / 1000);
	text_string(&text, " us");
	console(&text);
	hello->said_ready = true;
}

/* Takes frames off the device and does nothing else. */
static _Noreturn void stay_silent(struct net *net)
{
	size_t length;

	for (;;) {
		while (platform_net_read(net->frame_in, FRAME_MAX, &length) == PLATFORM_OK)
			;
		platform_yield(PLATFORM_NEVER);
	}
}

static void announce(struct hello *hello)
{
	net_announce(&hello->net);
	hello->announced = true;
	hello->http.boot = platform_clock_monotonic();
	hello->store_at = hello->http.boot + STORE_LEISURE;
}

/* -- The store -- */

static void on_boot_us(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)result, (void)payload; /* if it is not wanted there, so be it */
}

static void on_ready(void *context, enum store_result result, struct slice payload)
{
	struct hello *hello = context;

	(void)payload;
	hello->http.store_ready = result == STORE_DONE;
}

/* Whoever waits for the second finds the first. */
static void publish(struct hello *hello)
{
	char digits[20];
	struct text text = TEXT_IN(digits);

	text_decimal(&text, hello->http.boot / 1000);
	store_write(hello->store, "data/boot_us", (struct slice){ text.start, text.length },
		    on_boot_us, hello);
	store_write(hello->store, "data/ready", (struct slice)SLICE("1"), on_ready, hello);
}

static bool takes_over(const struct hello *hello)
{
	return hello->options.handoff.length > 0;
}

/* What is ready here is ready when the link is. */
static void come_up(struct hello *hello)
{
	hello->awaits_link = !platform_net_up();
	if (hello->awaits_link)
		return;
	if (hello->handover.over)
		handover_imported(&hello->handover);
	announce(hello);
	if (hello->store_begun)
		publish(hello);
}

static void on_imported(void *context)
{
	come_up(context);
}

/* Once we can serve, which is what we say by it. */
static void take_over(struct hello *hello)
{
	if (hello->asked | !takes_over(hello) | !hello->http.listening |
	    !net_has_address(&hello->net.config))
		return;
	hello->asked = true;
	handover_prepared(&hello->handover);
}

/*
 * While the host looks for what it has for us there is nothing to do, and then much at once.
 * Where a translator makes our processor (QEMU's TCG), what is executed for the first time costs
 * a thousand times what it does later. So we read what we expect, before it comes.
 */
static void rehearse(struct hello *hello)
{
	if (hello->rehearsed | !hello->asked)
		return;
	hello->rehearsed = true;
	hello->understood = handover_rehearse() && http_rehearse();
}

static bool handover_open(struct hello *hello)
{
	struct store *store = hello->store != NULL ? hello->store : &hello->own_store;

	return handover_init(&hello->handover, hello->options.handoff, &hello->net, store,
			     on_imported, hello);
}

static void on_handoff(void *context, enum store_result result, struct slice payload)
{
	struct hello *hello = context;
	struct slice copy = { hello->handoff, min(payload.length, (size_t)HANDOFF_MAX) };

	if (result != STORE_DONE)
		return; /* there is nothing to take over */
	memcpy(hello->handoff, payload.start, copy.length);
	hello->options.handoff = copy;
	if (!handover_open(hello))
		platform_exit(fail("handoff=: not <service>/<epoch>"));
}

static void on_address(void *context, enum store_result result, struct slice payload)
{
	struct hello *hello = context;
	struct slice copy = { hello->address, min(payload.length, (size_t)ADDRESS_MAX) };
	const char *error;

	if (result != STORE_DONE)
		return; /* it will be asked for again, or there is only an ip6 */
	memcpy(hello->address, payload.start, copy.length);
	error = options_parse_ip(&hello->options, copy);
	if (error != NULL)
		platform_exit(fail(error));
}

/* The answer to the last question, so the others have been answered. */
static void on_address6(void *context, enum store_result result, struct slice payload)
{
	struct hello *hello = context;
	const char *error = NULL;

	if (result == STORE_LOST)
		return;
	if (result == STORE_DONE)
		error = options_parse_ip6(&hello->options, payload);
	else if (hello->options.net.address == 0)
		error = "no ip= on the command line, nor in the store";
	if (error != NULL)
		platform_exit(fail(error));
	hello->http.hostname = hello->options.hostname;
	hello->net.config = hello->options.net;
	if (!takes_over(hello))
		come_up(hello);
}

static void use_store(struct hello *hello)
{
	if (net_has_address(&hello->net.config)) {
		if (hello->announced)
			publish(hello);
		return;
	}
	store_read(hello->store, "ip", on_address, hello);
	if (!takes_over(hello))
		store_read(hello->store, "handoff", on_handoff, hello);
	store_read(hello->store, "ip6", on_address6, hello);
}

/* A watch, or a new session: what was on its way may be lost. */
static void on_store(void *context, struct slice path, struct slice token)
{
	struct hello *hello = context;

	(void)token;
	if (hello->asked)
		handover_event(&hello->handover, path);
	if (path.start != NULL)
		return;
	hello->http.store_ready = false;
	use_store(hello);
}

static void begin_store(struct hello *hello)
{
	if (hello->store == NULL) {
		hello->store = &hello->own_store;
		store_init(hello->store, &hello->net, on_store, hello);
	}
	use_store(hello);
	hello->store_begun = true;
}

static uint64_t store_turn(struct hello *hello)
{
	uint64_t due = PLATFORM_NEVER;

	if (!hello->store_begun) {
		if (hello->net.now >= hello->store_at) /* 0, where it is asked before all else */
			begin_store(hello);
		else
			due = hello->store_at;
	}
	if (hello->store == NULL)
		return due;
	take_over(hello);
	uint64_t asked_again = store_poll(hello->store);

	due = min(due, asked_again);
	if (hello->awaits_link)
		come_up(hello);
	return due;
}

/* -- The main loop -- */

/* One turn; returns when the next is due at the latest. */
static uint64_t turn(struct hello *hello)
{
	const struct options *options = &hello->options;
	uint64_t next = net_poll(&hello->net);
	uint64_t now = hello->net.now;

	if (!hello->http.listening) {
		if (now >= options->listen_delay)
			http_listen(&hello->http, &hello->net);
		else
			next = min(next, options->listen_delay);
	}
	if (options->store) {
		uint64_t due = store_turn(hello);

		next = min(next, due);
		rehearse(hello);
	}
	if (now >= options->panic_at)
		__builtin_trap();
	next = min(next, options->panic_at);
	if (!hello->said_ready & hello->announced) {
		if (now >= LEISURE)
			say_ready(hello);
		else
			next = min(next, LEISURE);
	}
	return next;
}

/* Divides what the heap has behind `hello` among connections; false if that is too little. */
static bool use_heap(struct hello *hello, size_t heap_size)
{
	struct http_session *session = (void *)(hello + 1);
	size_t rest = heap_size - min(heap_size, sizeof(*hello));
	size_t fit = rest / (TCP_FOOTPRINT + sizeof(*session));
	unsigned connections = (unsigned)min(fit, TCP_CONNECTIONS_MAX);

	if (connections < TCP_CONNECTIONS_MIN)
		return false;
	hello->http.session = session;
	tcp_init(&hello->net, session + connections, connections);
	return true;
}

int app_main(const struct platform_start_info *info)
{
	struct hello *hello = info->heap_start;
	const char *error;

	if (!use_heap(hello, info->heap_size))
		return fail("not enough memory");
	error = options_parse(&hello->options, info->cmdline);
	if (error != NULL)
		return fail(error);
	net_init(&hello->net, &hello->options.net);
	if (hello->options.silent)
		stay_silent(&hello->net);
	hello->http.hostname = hello->options.hostname;
	hello->http.platform = info->name;
	if (hello->options.listen_delay == 0)
		http_listen(&hello->http, &hello->net);
	hello->store = platform_store(on_store, hello);
	hello->options.store |= hello->store != NULL;
	hello->http.store_used = hello->options.store;
	if (takes_over(hello) && !handover_open(hello))
		return fail("handoff=: not <service>/<epoch>");
	if (net_has_address(&hello->options.net) && !takes_over(hello)) {
		hello->store_at = PLATFORM_NEVER; /* until it is announced */
		come_up(hello);
	}
	for (;;)
		platform_yield(turn(hello));
}
