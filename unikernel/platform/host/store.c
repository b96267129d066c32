/* SPDX-License-Identifier: ISC */
/* A guest whose app asks the store what the test tells it to, and keeps what came of it. */
#include "host.h"
#include "store.h"

#include <stdlib.h>

#define EVENTS_SIZE (1u << 17)
#define TAGS 256

struct asker;

struct asked {
	struct asker *asker;
	uint8_t tag;
};

/* Lies in the guest's heap. */
struct asker {
	struct asked asked[TAGS];
	size_t length;
	uint8_t events[EVENTS_SIZE]; /* kind, tag, two bytes of length, payload */
	struct store store;
	struct net net;
};

static void keep(struct asker *asker, enum host_store_event kind, uint8_t tag, const void *data,
		 size_t length)
{
	uint8_t *event = asker->events + asker->length;

	if (EVENTS_SIZE - asker->length < 4 + length)
		abort(); /* the test never looks */
	event[0] = (uint8_t)kind;
	event[1] = tag;
	put16(event + 2, (uint16_t)length);
	if (length > 0)
		memcpy(event + 4, data, length);
	asker->length += 4 + length;
}

static void on_reply(void *context, enum store_result result, struct slice payload)
{
	static const enum host_store_event kinds[] = {
		[STORE_DONE] = HOST_STORE_DONE,
		[STORE_FAILED] = HOST_STORE_FAILED,
		[STORE_LOST] = HOST_STORE_LOST,
	};
	struct asked *asked = context;

	keep(asked->asker, kinds[result], asked->tag, payload.start, payload.length);
}

static void on_watch(void *context, struct slice path, struct slice token)
{
	struct asker *asker = context;

	if (path.start == NULL) {
		keep(asker, HOST_STORE_ANEW, 0, NULL, 0);
		return;
	}
	keep(asker, HOST_STORE_WATCH, 0, path.start, path.length);
	keep(asker, HOST_STORE_WATCH, 1, token.start, token.length);
}

static int asker_main(const struct platform_start_info *info)
{
	struct asker *asker = info->heap_start;
	struct net_config nowhere = { 0 };

	if (info->heap_size < sizeof(*asker))
		return 1;
	for (unsigned tag = 0; tag < TAGS; tag++)
		asker->asked[tag] = (struct asked){ asker, (uint8_t)tag };
	net_init(&asker->net, &nowhere);
	store_init(&asker->store, &asker->net, on_watch, asker);
	for (;;) {
		uint64_t next = net_poll(&asker->net);
		uint64_t due = store_poll(&asker->store);

		platform_yield(min(next, due));
	}
}

struct host_guest *host_new_asker(uint64_t seed)
{
	return host_new_app("", seed, sizeof(struct asker), asker_main);
}

bool host_store_request(struct host_guest *guest, uint8_t tag, uint32_t type, const char *payload,
			size_t size)
{
	struct asker *asker = host_heap(guest);
	struct asked *asked = &asker->asked[tag];
	struct slice whole = { payload, size };
	struct slice rest = whole;
	struct slice path = slice_cut(&rest, '\0');
	/* By the function meant for it, if what is asked has the right shape. */
	bool ended = path.length < size;
	bool only_path = ended & (rest.length == 0);
	bool two_strings = ended && rest.length > 0 && strlen(rest.start) + 1 == rest.length;

	if ((type == STORE_READ) & only_path)
		return store_read(&asker->store, payload, on_reply, asked);
	if ((type == STORE_WRITE) & ended)
		return store_write(&asker->store, payload, rest, on_reply, asked);
	if ((type == STORE_WATCH) & two_strings)
		return store_watch(&asker->store, payload, rest.start, on_reply, asked);
	return store_request(&asker->store, (enum store_type)type, &whole, 1, on_reply, asked);
}

size_t host_store_events(struct host_guest *guest, uint8_t *events, size_t size)
{
	struct asker *asker = host_heap(guest);
	size_t length = min(size, asker->length);

	memcpy(events, asker->events, length);
	memmove(asker->events, asker->events + length, asker->length - length);
	asker->length -= length;
	return length;
}

uint64_t host_store_rubbish(struct host_guest *guest)
{
	return ((struct asker *)host_heap(guest))->store.rubbish;
}
