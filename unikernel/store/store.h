/* SPDX-License-Identifier: ISC */
/*
 * The host's XenStore.
 *
 * store.c speaks XenStore's messages (Xen's io/xs_wire.h): requests out, replies
 * and watch events in. They are a stream of bytes, which one of two carries, chosen
 * as the platform is, when the image is linked: ring.c by Xen's ring, link.c by frames
 * of our own for a guest that is not on Xen. How is told there.
 *
 * All state is in `struct store`, which its owner zeroes and keeps. What the host
 * sends is checked: if it makes no sense as a frame it is dropped and counted, and
 * if it makes none as a message the session begins anew, where there are sessions.
 */
#ifndef STORE_H
#define STORE_H

#include "net.h"

/* Requests under way at a time: those of an app, and of a platform's devices. */
#define STORE_REQUESTS_APP 16
#define STORE_REQUESTS_PLATFORM 16
#define STORE_REQUESTS (STORE_REQUESTS_APP + STORE_REQUESTS_PLATFORM)
/* XENSTORE_PAYLOAD_MAX of io/xs_wire.h */
#define STORE_PAYLOAD_MAX 4096
#define STORE_HEADER 16
/* Of requests that were not acknowledged: the largest, and some small ones. */
#define STORE_QUEUE 8192

/* enum xsd_sockmsg_type, as far as anybody here knows it */
enum store_type {
	STORE_DIRECTORY = 1,
	STORE_READ = 2,
	STORE_WATCH = 4,
	STORE_UNWATCH = 5,
	STORE_WRITE = 11,
	STORE_MKDIR = 12,
	STORE_RM = 13,
	STORE_WATCH_EVENT = 15,
	STORE_ERROR = 16
};

enum store_result {
	STORE_DONE,   /* the payload is the answer */
	STORE_FAILED, /* the payload is why: "ENOENT", "EACCES", ... */
	STORE_LOST    /* the session has ended; whether it was done nobody knows */
};

/* The payload is good within the call only. A new request may be made there. */
typedef void store_callback(void *context, enum store_result result, struct slice payload);

/*
 * A watch has fired. Or, without a path (its start is NULL), a new session has
 * begun: all watches are gone. It comes after the STORE_LOST of all requests, and
 * is the place to begin all over.
 */
typedef void store_handler(void *context, struct slice path, struct slice token);

struct store_request {
	uint32_t id; /* its place in the table, plus STORE_REQUESTS for each use */
	uint32_t type;
	store_callback *callback; /* NULL: free */
	void *context;
};

/*
 * What is between us and the host; names as in net/tcp.h. Of all this a ring needs the
 * queue alone: nothing gets lost there.
 */
struct store_link {
	uint32_t session;
	uint32_t sequence; /* of what is in flight, or of what comes next */
	uint32_t received; /* segments of the host, in order */
	uint64_t deadline; /* nothing is sent (again) before */
	uint64_t interval; /* and after that it is this long */
	bool heard;	   /* anything of the host, in this session */
	bool owed;	   /* an acknowledgement */
	size_t in_flight, queued; /* of `queue`, from its start */
	uint8_t queue[STORE_QUEUE];
};

struct store {
	struct net *net;
	store_handler *handler;
	void *context;
	struct store_link link;
	bool broken;	  /* no byte of the ring can be trusted any more */
	uint64_t rubbish; /* frames and messages that made no sense */
	uint32_t sessions, retransmits;
	struct store_request request[STORE_REQUESTS];
	size_t length; /* of the message that comes in */
	uint8_t message[STORE_HEADER + STORE_PAYLOAD_MAX];
};

/* -- For apps -- */

/*
 * The store that the platform has opened for its devices' sake; watches that are not of
 * theirs go to `handler`. NULL: it has none, and the app inits its own. Each platform
 * defines it.
 */
struct store *platform_store(store_handler *handler, void *context);

/*
 * Nothing is sent before the first request. From now on `net` brings us our frames, if
 * they are what carries the stream; else it may be NULL.
 */
void store_init(struct store *store, struct net *net, store_handler *handler, void *context);
/* To be called after net_poll(), if there is a `net`. Sends what is due; returns when it wants to be called next. */
uint64_t store_poll(struct store *store);

/*
 * A request of the pieces put together; `callback` is called once, and never from
 * within. False, and nothing has happened, if too much is under way.
 */
bool store_request(struct store *store, enum store_type type, const struct slice *pieces,
		   size_t count, store_callback *callback, void *context);
bool store_read(struct store *store, const char *path, store_callback *callback, void *context);
bool store_write(struct store *store, const char *path, struct slice value,
		 store_callback *callback, void *context);
bool store_watch(struct store *store, const char *path, const char *token,
		 store_callback *callback, void *context);

/* -- Between the files of this folder, and for net/ethernet.c -- */

/* What follows the header of a frame that is for us. */
void store_input(struct store *store, const uint8_t *payload, size_t length);
/* The next bytes from the host; false if they make no sense. */
bool messages_input(struct store *store, const uint8_t *data, size_t length);
/* Ends all that was under way, and tells whose it was. */
void messages_lost(struct store *store);

#endif
