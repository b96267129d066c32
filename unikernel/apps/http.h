/* SPDX-License-Identifier: ISC */
/*
 * An HTTP/1.1 server (RFC 9110, RFC 9112) with persistent connections and
 * pipelining. The request's head is parsed where TCP has received it; bodies in
 * both directions pass through in pieces, so their size does not matter.
 */
#ifndef HTTP_H
#define HTTP_H

#include "net.h"

/* A request's line and fields together; more is answered with 431. */
#define HTTP_HEAD_MAX 4096
_Static_assert(HTTP_HEAD_MAX < TCP_RECEIVE_BUFFER, "a head must fit the buffer it is parsed in");

/*
 * A connection on which nothing moves for so long is closed. A head that trickles
 * in does not count as moving until it is complete.
 */
#define HTTP_IDLE (60 * SECOND)
/* In the midst of an answer TCP watches over loss; this bounds a window kept shut. */
#define HTTP_STALLED (900 * SECOND)

/* The bytes of /bytes/N repeat after this many; see pattern() in http_reply.c. */
#define HTTP_PATTERN 251
#define HTTP_PATTERN_COPIES 8

enum http_route { ROUTE_FILE, ROUTE_STATS, ROUTE_BYTES, ROUTE_HASH, ROUTE_NONE };

struct http_request {
	struct slice method, target, path;
	bool head;          /* HEAD: the answer has no body */
	bool http10, keep_alive, has_host, expects_continue;
	bool has_length, has_transfer_coding;
	uint64_t length;    /* of the body */
};

/* What http_parse() found. */
enum http_parse { HTTP_INCOMPLETE, HTTP_COMPLETE, HTTP_BAD, HTTP_VERSION, HTTP_TOO_LARGE };

/* Sets *used to the size of the head, if it is complete. */
enum http_parse http_parse(struct http_request *request, const char *head, size_t length,
			   size_t *used);

enum http_state { HTTP_HEAD, HTTP_BODY, HTTP_ANSWER };

/* One for each connection of TCP, by index. */
struct http_session {
	enum http_state state;
	bool close;   /* after this answer */
	bool no_body; /* HEAD */
	bool moved;   /* something did in this event, so the time-out begins anew */
	uint16_t status;
	enum http_route route;
	const struct site_file *file; /* of ROUTE_FILE */
	uint64_t body_left;  /* of the request */
	uint64_t body_size;
	uint64_t hash;       /* FNV-1a, of the request's body */
	const uint8_t *data; /* of the answer; NULL: the pattern */
	uint64_t sent, size; /* of the answer's body; or all of it, where it lies ready */
};

struct http {
	struct net *net;
	struct slice hostname;
	const char *platform;
	bool listening;
	bool store_used, store_ready; /* it has taken the news that we are ready */
	uint64_t boot; /* when the announcement left */
	uint64_t requests, connections;
	uint8_t pattern[HTTP_PATTERN * HTTP_PATTERN_COPIES];
	struct http_session *session; /* as many as TCP has connections */
};

void http_listen(struct http *http, struct net *net);
/* Reads a request of nobody's; false if it makes no sense. See hello.c. */
bool http_rehearse(void);

/* http_reply.c: the route of a request, and its answer in two steps */
void http_route(struct http_session *session, const struct http_request *request);
/* Queues status line and fields; false if there is no room for them yet. */
bool http_reply_start(struct http *http, struct http_session *session,
		      struct tcp_connection *connection);
/* Queues what there is room for; true once the answer is complete. */
bool http_reply_continue(struct http *http, struct http_session *session,
			 struct tcp_connection *connection);

/* The static site, made by tools/pack_site.py. */
struct site_file {
	struct slice path;
	const char *type;
	const uint8_t *answer;       /* head and body, for a connection that stays */
	size_t head_size, full_size; /* of the answer */
};
extern const struct site_file site_files[];
extern const size_t site_files_count;

#endif
