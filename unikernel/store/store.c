/* SPDX-License-Identifier: ISC */
/*
 * XenStore's messages: a header of four little-endian words, then the payload.
 *
 *	type, request, transaction, length
 *
 * A reply has the type of its request, or is an error whose payload is its name. A
 * watch event comes by itself; its payload is path and token, each with a NUL.
 */
#include "store.h"

/* The fields of the header; the others are always 0. */
enum { AT_TYPE = 0, AT_REQUEST = 4, AT_LENGTH = 12 };

static uint32_t get32_little(const uint8_t *from)
{
	return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
	       (uint32_t)from[3] << 24;
}

static void put32_little(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> 8 * i);
}

/* -- Requests -- */

static void enqueue(struct store_link *link, const void *data, size_t length)
{
	memcpy(link->queue + link->queued, data, length);
	link->queued += length;
}

bool store_request(struct store *store, enum store_type type, const struct slice *pieces,
		   size_t count, store_callback *callback, void *context)
{
	uint8_t header[STORE_HEADER] = { 0 };
	struct store_request *request = store->request;
	size_t length = 0;

	for (size_t i = 0; i < count; i++)
		length += pieces[i].length;
	if (length > STORE_PAYLOAD_MAX || STORE_HEADER + length > STORE_QUEUE - store->link.queued)
		return false;
	while (request->callback != NULL)
		if (++request == store->request + STORE_REQUESTS)
			return false;
	request->id += STORE_REQUESTS;
	request->type = type;
	request->callback = callback;
	request->context = context;
	put32_little(header + AT_TYPE, type);
	put32_little(header + AT_REQUEST, request->id);
	put32_little(header + AT_LENGTH, (uint32_t)length);
	enqueue(&store->link, header, sizeof(header));
	for (size_t i = 0; i < count; i++)
		enqueue(&store->link, pieces[i].start, pieces[i].length);
	return true;
}

/* With the NUL that ends it. */
static struct slice with_end(const char *string)
{
	return (struct slice){ string, strlen(string) + 1 };
}

bool store_read(struct store *store, const char *path, store_callback *callback, void *context)
{
	struct slice pieces[] = { with_end(path) };

	return store_request(store, STORE_READ, pieces, 1, callback, context);
}

bool store_write(struct store *store, const char *path, struct slice value,
		 store_callback *callback, void *context)
{
	struct slice pieces[] = { with_end(path), value };

	return store_request(store, STORE_WRITE, pieces, 2, callback, context);
}

bool store_watch(struct store *store, const char *path, const char *token,
		 store_callback *callback, void *context)
{
	struct slice pieces[] = { with_end(path), with_end(token) };

	return store_request(store, STORE_WATCH, pieces, 2, callback, context);
}

/* -- What comes back -- */

static bool watch_event(struct store *store, struct slice payload)
{
	struct slice path, token;

	/* Two strings and nothing else, so that the last byte is a NUL and the second one. */
	if (payload.length == 0 || payload.start[payload.length - 1] != '\0')
		return false;
	path = slice_cut(&payload, '\0');
	if (payload.length == 0)
		return false;
	token = slice_cut(&payload, '\0');
	if (payload.length > 0)
		return false;
	store->handler(store->context, path, token);
	return true;
}

static bool reply(struct store *store, uint32_t type, struct slice payload)
{
	uint32_t id = get32_little(store->message + AT_REQUEST);
	struct store_request *request = &store->request[id % STORE_REQUESTS];
	store_callback *callback = request->callback;

	if (callback == NULL || request->id != id ||
	    (type != request->type && type != STORE_ERROR))
		return false;
	request->callback = NULL; /* before the call, which may want the place */
	if (type == STORE_ERROR)
		payload = slice_cut(&payload, '\0');
	callback(request->context, type == STORE_ERROR ? STORE_FAILED : STORE_DONE, payload);
	return true;
}

/* A whole message. */
static void message(struct store *store, size_t length)
{
	struct slice payload = { (char *)store->message + STORE_HEADER, length };
	uint32_t type = get32_little(store->message + AT_TYPE);
	bool good = type == STORE_WATCH_EVENT ? watch_event(store, payload)
					      : reply(store, type, payload);

	if (!good)
		store->rubbish++;
}

bool messages_input(struct store *store, const uint8_t *data, size_t length)
{
	while (length > 0) {
		bool has_header = store->length >= STORE_HEADER;
		size_t payload = has_header ? get32_little(store->message + AT_LENGTH) : 0;
		size_t part = min(STORE_HEADER + payload - store->length, length);

		memcpy(store->message + store->length, data, part);
		store->length += part;
		data += part;
		length -= part;
		if (store->length < STORE_HEADER)
			break;
		payload = get32_little(store->message + AT_LENGTH);
		if (payload > STORE_PAYLOAD_MAX)
			return false; /* and where the next message begins nobody knows */
		if (store->length == STORE_HEADER + payload) {
			store->length = 0;
			message(store, payload);
		}
	}
	return true;
}

void messages_lost(struct store *store)
{
	struct store_request lost[STORE_REQUESTS];
	struct slice nothing = { NULL, 0 };

	store->length = 0;
	memcpy(lost, store->request, sizeof(lost));
	for (int i = 0; i < STORE_REQUESTS; i++) /* all, before the first call makes new ones */
		store->request[i].callback = NULL;
	for (int i = 0; i < STORE_REQUESTS; i++)
		if (lost[i].callback != NULL)
			lost[i].callback(lost[i].context, STORE_LOST, nothing);
	store->handler(store->context, nothing, nothing);
}
