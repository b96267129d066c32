/* SPDX-License-Identifier: ISC */
/*
 * The guest of the demo: a web server that was not there until you asked.
 *
 * The announcement is the first frame to leave, and leaves when everything can
 * be served: whoever started us takes it for "ready".
 */
#include "http.h"
#include "options.h"

/* The line on the console waits so long: its bytes are a system call of the host's each. */
#define LEISURE (100 * MS)

struct hello {
	bool said_ready;
	struct options options;
	struct http http;
	struct net net; /* last, since its end is megabytes of buffers */
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
	text_address(&text, hello->options.net.address);
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

/* One turn; returns when the next is due at the latest. */
static uint64_t turn(struct hello *hello)
{
	const struct options *options = &hello->options;
	uint64_t next = net_poll(&hello->net);
	uint64_t now = hello->net.now;

	if (now >= options->panic_at)
		__builtin_trap();
	next = min(next, options->panic_at);
	if (!hello->said_ready) {
		if (now >= LEISURE)
			say_ready(hello);
		else
			next = min(next, LEISURE);
	}
	if (hello->http.listening)
		return next;
	if (now < options->listen_delay)
		return min(next, options->listen_delay);
	http_listen(&hello->http, &hello->net);
	return next;
}

int app_main(const struct platform_start_info *info)
{
	struct hello *hello = info->heap_start;
	const char *error;

	if (info->heap_size < sizeof(*hello))
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
	net_announce(&hello->net);
	hello->http.boot = platform_clock_monotonic();
	for (;;)
		platform_yield(turn(hello));
}
