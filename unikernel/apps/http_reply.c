/* SPDX-License-Identifier: ISC */
/* What is asked for, and the answer. */
#include "http.h"

/* Room for any head we send. */
#define REPLY_HEAD_MAX 512
#define STATS_MAX 1024
_Static_assert(REPLY_HEAD_MAX + STATS_MAX < TCP_SEND_BUFFER, "an answer's head goes out whole");

static const struct {
	uint16_t status;
	const char *reason, *text;
} reasons[] = {
	{ 200, "OK", "" },
	{ 400, "Bad Request", "That is not HTTP as we know it.\n" },
	{ 404, "Not Found", "There is nothing of that name here.\n" },
	{ 405, "Method Not Allowed", "That cannot be done to it.\n" },
	{ 417, "Expectation Failed", "Not now.\n" },
	{ 431, "Request Header Fields Too Large", "Please ask in fewer words.\n" },
	{ 501, "Not Implemented", "Send the body with a Content-Length.\n" },
	{ 505, "HTTP Version Not Supported", "HTTP/1.1 is spoken here.\n" },
};

static unsigned find_reason(uint16_t status)
{
	unsigned i = 0;

	while (reasons[i].status != status)
		i++;
	return i;
}

/* -- Routes -- */

static const struct site_file *find_file(struct slice path)
{
	for (size_t i = 0; i < site_files_count; i++)
		if (slice_equal(path, site_files[i].path))
			return &site_files[i];
	return NULL;
}

static enum http_route find_route(struct http_session *session, struct slice path)
{
	static const char bytes[] = "/bytes/";

	session->file = find_file(path);
	if (session->file != NULL)
		return ROUTE_FILE;
	if (slice_is(path, "/stats"))
		return ROUTE_STATS;
	if (slice_is(path, "/hash"))
		return ROUTE_HASH;
	if (slice_starts(path, bytes) &&
	    slice_decimal(slice_from(path, sizeof(bytes) - 1), &session->size))
		return ROUTE_BYTES;
	return ROUTE_NONE;
}

void http_route(struct http_session *session, const struct http_request *request)
{
	bool allowed;

	session->size = 0;
	session->route = find_route(session, request->path);
	if (session->route == ROUTE_HASH)
		allowed = slice_is(request->method, "POST");
	else
		allowed = request->head || slice_is(request->method, "GET");
	session->status = allowed ? 200 : 405;
	if (session->route == ROUTE_NONE)
		session->status = 404;
}

/* -- Bodies -- */

/* The byte at offset i of /bytes/N is i % 251: a prime, so no power of two hides a slip. */
static void pattern(struct http *http)
{
	if (http->pattern[1] == 0)
		for (size_t i = 0; i < sizeof(http->pattern); i++)
			http->pattern[i] = (uint8_t)(i % HTTP_PATTERN);
}

static void stat(struct text *text, const char *name, uint64_t value)
{
	text_string(text, ",\"");
	text_string(text, name);
	text_string(text, "\":");
	text_decimal(text, value);
}

static const char *store_state(const struct http *http)
{
	if (!http->store_used)
		return "off";
	return http->store_ready ? "ready" : "waiting";
}

static void write_stats(const struct http *http, struct text *text)
{
	const struct net_counters *counters = &http->net->counters;

	text_string(text, "{\"service\":\"");
	text_bytes(text, http->hostname.start, http->hostname.length);
	text_string(text, "\",\"platform\":\"");
	text_string(text, http->platform);
	text_string(text, "\",\"store\":\"");
	text_string(text, store_state(http));
	text_string(text, "\"");
	stat(text, "boot_us", http->boot / 1000);
	stat(text, "uptime_us", http->net->now / 1000);
	stat(text, "requests", http->requests);
	stat(text, "connections", http->connections);
	stat(text, "connections_max", http->net->tcp.capacity);
	stat(text, "frames_in", counters->frames_in);
	stat(text, "frames_out", counters->frames_out);
	stat(text, "dropped_out", counters->dropped_out);
	stat(text, "malformed", counters->malformed);
	stat(text, "fragments", counters->fragments);
	stat(text, "ipv6_in", counters->ipv6_in);
	stat(text, "ipv6_out", counters->ipv6_out);
	stat(text, "tcp_retransmits", counters->tcp_retransmits);
	stat(text, "tcp_timeouts", counters->tcp_timeouts);
	stat(text, "tcp_resets", counters->tcp_resets_out);
	stat(text, "tcp_refused", counters->tcp_refused);
	stat(text, "tcp_cookies", counters->tcp_cookies);
	text_string(text, "}\n");
}

static void write_hash(const struct http_session *session, struct text *text)
{
	text_string(text, "{\"length\":");
	text_decimal(text, session->body_size);
	text_string(text, ",\"fnv1a64\":\"");
	text_hex(text, session->hash, 16);
	text_string(text, "\"}\n");
}

/* Sets up the body's source; `small` takes the text of one made on the spot. */
static const char *prepare(struct http *http, struct http_session *session, struct text *small)
{
	session->sent = 0;
	if (session->status != 200) {
		text_string(small, reasons[find_reason(session->status)].text);
		return "text/plain; charset=utf-8";
	}
	switch (session->route) {
	case ROUTE_FILE:
		session->data = session->file->answer + session->file->head_size;
		session->size = session->file->full_size - session->file->head_size;
		return session->file->type;
	case ROUTE_BYTES:
		pattern(http);
		session->data = NULL;
		return "application/octet-stream";
	case ROUTE_STATS:
		write_stats(http, small);
		return "application/json";
	default:
		write_hash(session, small);
		return "application/json";
	}
}

/* -- The answer -- */

static void field(struct text *text, const char *name, const char *value)
{
	text_string(text, name);
	text_string(text, ": ");
	text_string(text, value);
	text_string(text, "\r\n");
}

static void write_head(const struct http_session *session, struct text *head, const char *type,
		       uint64_t size)
{
	text_string(head, "HTTP/1.1 ");
	text_decimal(head, session->status);
	text_string(head, " ");
	text_string(head, reasons[find_reason(session->status)].reason);
	text_string(head, "\r\nContent-Length: ");
	text_decimal(head, size);
	text_string(head, "\r\n");
	field(head, "Content-Type", type);
	field(head, "Cache-Control", "no-store");
	if (session->status == 405)
		field(head, "Allow", session->route == ROUTE_HASH ? "POST" : "GET, HEAD");
	field(head, "Connection", session->close ? "close" : "keep-alive");
	text_string(head, "\r\n");
}

bool http_reply_start(struct http *http, struct http_session *session,
		      struct tcp_connection *connection)
{
	char head_space[REPLY_HEAD_MAX], body_space[STATS_MAX];
	struct text head = TEXT_IN(head_space), body = TEXT_IN(body_space);
	const char *type;

	if ((session->status == 200) & (session->route == ROUTE_FILE) & !session->close) {
		session->data = session->file->answer;
		session->size = session->no_body ? session->file->head_size
						 : session->file->full_size;
		session->sent = 0;
		return true;
	}
	if (tcp_room(connection) < REPLY_HEAD_MAX + STATS_MAX)
		return false;
	type = prepare(http, session, &body);
	if (body.length > 0)
		session->size = 0; /* all of it goes out with the head */
	write_head(session, &head, type, body.length + session->size);
	tcp_write(connection, head.start, head.length);
	if (session->no_body)
		session->size = 0;
	else
		tcp_write(connection, body.start, body.length);
	return true;
}

bool http_reply_continue(struct http *http, struct http_session *session,
			 struct tcp_connection *connection)
{
	while (session->sent < session->size) {
		uint64_t left = session->size - session->sent;
		const uint8_t *data;
		size_t written;

		if (session->data != NULL) {
			data = session->data + session->sent;
		} else {
			data = http->pattern + session->sent % HTTP_PATTERN;
			left = min(left, (uint64_t)HTTP_PATTERN * (HTTP_PATTERN_COPIES - 1));
		}
		written = tcp_write(connection, data, left);
		if (written == 0)
			return false;
		session->sent += written;
		session->moved = true;
	}
	return true;
}
