/* SPDX-License-Identifier: ISC */
#include "handover.h"
#include "options.h"

/*
 * What we can go on with, for who opens connections for us: a note of the image.
 * Windows are not scaled by us (the shift is 0), but we understand a peer's.
 */
#define FEATURE_WINDOW_SCALE 1
/* What 8 MiB of memory have room for. With more of both, the rest are not opened for us. */
#define CONNECTIONS 256

__attribute__((section(".note.jitsu"), used, aligned(4))) static const struct {
	uint32_t name_size, size, type;
	char name[8];
	uint32_t version, features, window, connections, window_shift, reserved;
} note = {
	.name_size = sizeof("Jitsu"),
	.size = 24,
	.type = 1,
	.name = "Jitsu",
	.version = 1,
	.features = FEATURE_WINDOW_SCALE,
	.window = TCP_RECEIVE_BUFFER,
	.connections = CONNECTIONS,
};

/*
 * Of the node <conduit><where>; `rest` goes behind it, and with it the NUL that ends its path. In
 * pieces, and mostly from a table: less code than to put paths together, which is what a boot
 * under a translator pays for.
 */
struct request {
	enum store_type type;
	struct slice where;
	bool of_epoch; /* <where><epoch> */
	struct slice rest;
	store_callback *callback;
};

static void ask(struct handover *handover, const struct request *request, void *context)
{
	struct slice pieces[] = { SLICE("/conduit/"), handover->service, request->where,
				  handover->epoch, request->rest };

	pieces[3].length *= request->of_epoch;
	store_request(handover->store, request->type, pieces, 5, request->callback, context);
}

/* -- One connection -- */

static bool parse_mac(struct slice text, uint8_t mac[MAC_SIZE])
{
	for (int i = 0; i < MAC_SIZE; i++) {
		struct slice byte = slice_cut(&text, ':');
		uint64_t value = 0;

		for (size_t at = 0; at < byte.length; at++) {
			char digit = byte.start[at];

			if (digit >= '0' && digit <= '9')
				value = value << 4 | (uint64_t)(digit - '0');
			else if (digit >= 'a' && digit <= 'f')
				value = value << 4 | (uint64_t)(digit - 'a' + 10);
			else
				return false;
		}
		if (byte.length != 2)
			return false;
		mac[i] = (uint8_t)value;
	}
	return text.length == 0;
}

/* The keys of a line that mean something to us: four words, then numbers. */
enum key {
	KEY_LOCAL,
	KEY_PEER,
	KEY_PEER_MAC,
	KEY_STATE,
	KEY_PORT,
	KEY_PEER_PORT,
	KEY_ISS,
	KEY_IRS,
	KEY_SND_WND,
	KEY_MSS,
	KEY_SND_WSCALE,
	KEY_RX,
	KEY_OTHER
};

struct line {
	struct ip_ends ends;
	struct slice state;
	uint64_t number[KEY_OTHER + 1];
};

static enum key find_key(struct slice name)
{
	static const struct slice keys[] = {
		[KEY_LOCAL] = SLICE("local"),
		[KEY_PEER] = SLICE("peer"),
		[KEY_PEER_MAC] = SLICE("peer_mac"),
		[KEY_STATE] = SLICE("state"),
		[KEY_PORT] = SLICE("port"),
		[KEY_PEER_PORT] = SLICE("peer_port"),
		[KEY_ISS] = SLICE("iss"),
		[KEY_IRS] = SLICE("irs"),
		[KEY_SND_WND] = SLICE("snd_wnd"),
		[KEY_MSS] = SLICE("mss"),
		[KEY_SND_WSCALE] = SLICE("snd_wscale"),
		[KEY_RX] = SLICE("rx"),
	};
	enum key key = KEY_LOCAL;

	while (key < KEY_OTHER && !slice_equal(name, keys[key]))
		key++;
	return key;
}

static bool parse_word(struct line *line, enum key key, struct slice value)
{
	if (key >= KEY_PORT)
		return slice_decimal(value, &line->number[key]);
	if (key <= KEY_PEER)
		return options_parse_address(value, key == KEY_LOCAL ? &line->ends.ours
								 : &line->ends.theirs);
	if (key == KEY_PEER_MAC)
		return parse_mac(value, line->ends.mac);
	line->state = value;
	return true;
}

static bool parse_line(struct line *line, struct slice rest)
{
	memset(line, 0, sizeof(*line));
	while (rest.length > 0) {
		struct slice value = slice_cut(&rest, ' ');
		struct slice key = slice_cut(&value, '=');

		if (!parse_word(line, find_key(key), value))
			return false;
	}
	return line->number[KEY_PEER_PORT] != 0 && line->number[KEY_RX] <= TCP_RECEIVE_BUFFER;
}

static struct tcp_import flow_of(const struct line *line)
{
	const uint64_t *number = line->number;

	return (struct tcp_import){
		.peer = { .ends = line->ends,
			  .port = (uint16_t)number[KEY_PEER_PORT],
			  .local_port = (uint16_t)number[KEY_PORT] },
		.established = !slice_is(line->state, "syn-received"),
		.iss = (uint32_t)number[KEY_ISS],
		.irs = (uint32_t)number[KEY_IRS],
		.snd_wnd = (uint32_t)number[KEY_SND_WND],
		.mss = (uint16_t)number[KEY_MSS],
		.snd_shift = (uint8_t)min(number[KEY_SND_WSCALE], 14),
	};
}

bool handover_rehearse(void)
{
	static const struct slice some = SLICE(
		"state=established local=192.0.2.1 port=80 peer=192.0.2.2 peer_port=50000 "
		"peer_mac=02:00:00:00:00:0a iss=1 snd_una=2 snd_nxt=2 snd_wnd=64240 irs=1 rcv_nxt=2 "
		"rcv_wnd=1 mss=1460 snd_wscale=7 rcv_wscale=0 sack=0 ts=0 ts_val=0 ts_recent=0 rx=1");
	struct line line;

	return parse_line(&line, some);
}

static void on_line(void *context, enum store_result result, struct slice payload);
static void on_chunk(void *context, enum store_result result, struct slice payload);
static void pull_next(struct handover_pull *pull);

/* The line of a connection, or its next chunk. */
static void ask_flow(struct handover_pull *pull, store_callback *callback)
{
	char space[48];
	struct text path = TEXT_IN(space);
	struct request request = { .type = STORE_READ, .callback = callback };

	text_string(&path, pull->family == 0 ? "/tcpv4/" : "/tcpv6/");
	text_decimal(&path, pull->index);
	if (callback == on_chunk) {
		text_string(&path, "/rx/");
		text_decimal(&path, pull->chunk);
	}
	text_bytes(&path, "", 1);
	request.where = (struct slice){ path.start, path.length };
	ask(pull->handover, &request, pull);
}

/* Asks for the first chunk together with the line, whether there is one or not. */
static void pull_begin(struct handover_pull *pull, unsigned family)
{
	struct handover *handover = pull->handover;

	*pull = (struct handover_pull){ .handover = handover, .busy = true, .family = family };
	pull->index = handover->next[family]++;
	ask_flow(pull, on_line);
	ask_flow(pull, on_chunk);
}

static void pull_end(struct handover_pull *pull)
{
	struct handover *handover = pull->handover;

	pull->busy = false;
	if (!handover->committed) { /* it was too early to ask */
		handover->next[pull->family] = 0;
		return;
	}
	handover->imported += pull->index < handover->count[pull->family];
	pull_next(pull);
}

static void on_line(void *context, enum store_result result, struct slice payload)
{
	struct handover_pull *pull = context;
	struct tcp_import flow;
	struct line line;

	if (result == STORE_LOST || pull->known)
		return; /* it is asked for again; or it was, and is ours already */
	pull->known = result == STORE_DONE;
	if (!pull->known || !parse_line(&line, payload))
		return;
	flow = flow_of(&line);
	pull->peer = flow.peer;
	pull->connection = tcp_import(pull->handover->net, &flow);
	pull->rx = line.number[KEY_RX];
	pull->finished = slice_is(line.state, "close-wait");
}

static void on_chunk(void *context, enum store_result result, struct slice payload)
{
	struct handover_pull *pull = context;

	if (result == STORE_LOST)
		return;
	if (result == STORE_DONE) {
		pull->rx -= min(pull->rx, payload.length);
		pull->chunk++;
	} else {
		payload.length = 0;
		pull->rx = 0;
	}
	if (pull->connection != NULL && (payload.length > 0 || pull->finished))
		tcp_import_data(pull->connection, &pull->peer, payload,
				pull->finished && pull->rx == 0);
	if (pull->rx > 0)
		ask_flow(pull, on_chunk);
	else
		pull_end(pull);
}

/* -- All of them -- */

static void ignore(void *context, enum store_result result, struct slice payload)
{
	(void)context, (void)result, (void)payload;
}

static void on_state(void *context, enum store_result result, struct slice payload);
static void on_count4(void *context, enum store_result result, struct slice payload);
static void on_count6(void *context, enum store_result result, struct slice payload);

#define HANDOFF .where = SLICE("/handoff/"), .of_epoch = true

/* In the order in which they go out. */
enum { PREPARED, STATE, IMPORTED = 4, WATCH };
static const struct request requests[] = {
	{ STORE_WRITE, HANDOFF, SLICE("/guest\0prepared"), ignore },
	{ STORE_READ, HANDOFF, SLICE("\0"), on_state },
	{ STORE_READ, SLICE("/tcpv4"), false, SLICE("\0"), on_count4 },
	{ STORE_READ, SLICE("/tcpv6"), false, SLICE("\0"), on_count6 },
	{ STORE_WRITE, HANDOFF, SLICE("/guest\0imported"), ignore },
	{ STORE_WATCH, HANDOFF, SLICE("\0handoff\0"), ignore },
};

/* Goes on with the next connection; if there is none, we may be through. */
static void pull_next(struct handover_pull *pull)
{
	struct handover *handover = pull->handover;
	uint64_t total = 0;

	for (unsigned family = 0; family < HANDOVER_FAMILIES; family++) {
		if (!pull->busy && handover->next[family] < handover->count[family])
			pull_begin(pull, family);
		total += handover->count[family];
	}
	if (handover->imported < total || handover->over)
		return;
	handover->over = true;
	handover->done(handover->context);
}

void handover_imported(struct handover *handover)
{
	ask(handover, &requests[IMPORTED], handover);
}

static void on_state(void *context, enum store_result result, struct slice payload)
{
	struct handover *handover = context;

	if (result == STORE_DONE && slice_is(payload, "committed"))
		handover->committed = true;
}

static void on_count4(void *context, enum store_result result, struct slice payload)
{
	struct handover *handover = context;

	if (result == STORE_DONE && !handover->counted)
		slice_decimal(payload, &handover->count[0]);
}

static void ask_from(struct handover *handover, int first);

/* It is not committed. A watch fires when it is set, too, so nothing is missed. */
static void wait(struct handover *handover)
{
	if (!handover->watched)
		ask(handover, &requests[WATCH], handover);
	else if (handover->again)
		ask_from(handover, STATE);
	handover->watched = true;
}

static void on_count6(void *context, enum store_result result, struct slice payload)
{
	struct handover *handover = context;

	handover->asking = false;
	if (result == STORE_LOST)
		return;
	if (!handover->committed) {
		wait(handover);
		return;
	}
	if (handover->counted)
		return;
	handover->counted = true;
	if (result == STORE_DONE)
		slice_decimal(payload, &handover->count[1]);
	for (int i = 0; i < HANDOVER_PULLS; i++)
		if (!handover->pull[i].busy)
			pull_next(&handover->pull[i]);
}

/*
 * All in one breath, as if it were committed and had one connection, so that it is one round
 * trip: a host that commits at once has done so before it comes to what follows our word.
 */
static void ask_from(struct handover *handover, int first)
{
	handover->asking = true;
	handover->again = false;
	for (int i = first; i < IMPORTED; i++)
		ask(handover, &requests[i], handover);
	if (!handover->pull[0].busy)
		pull_begin(&handover->pull[0], 0);
}

void handover_prepared(struct handover *handover)
{
	ask_from(handover, PREPARED);
}

void handover_event(struct handover *handover, struct slice path)
{
	if (handover->over)
		return;
	if (path.start != NULL) {
		handover->again = true;
		if (!handover->committed && !handover->asking)
			ask_from(handover, STATE);
		return;
	}
	handover->watched = false;
	for (int i = 0; i < HANDOVER_PULLS; i++) {
		struct handover_pull *pull = &handover->pull[i];

		if (pull->busy && !pull->known)
			ask_flow(pull, on_line);
		if (pull->busy)
			ask_flow(pull, on_chunk);
	}
	if (!handover->committed)
		handover_prepared(handover);
	else if (!handover->counted)
		ask_from(handover, STATE);
}

bool handover_init(struct handover *handover, struct slice where, struct net *net,
		   struct store *store, void (*done)(void *context), void *context)
{
	uint64_t number;

	*handover = (struct handover){
		.net = net, .store = store, .done = done, .context = context
	};
	for (int i = 0; i < HANDOVER_PULLS; i++)
		handover->pull[i].handover = handover;
	handover->service = slice_cut(&where, '/');
	handover->epoch = where;
	/* A label, so that the longest path fits. */
	return handover->service.length > 0 && handover->service.length <= 63 &&
	       where.length < 20 && slice_decimal(where, &number);
}
