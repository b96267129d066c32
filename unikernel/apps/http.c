/* SPDX-License-Identifier: ISC */
/* A session: head, body, answer, and again. */
#include "http.h"

#define PORT_HTTP 80
#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

/* An answer that needs no look at the request, and after which we are done. */
static void refuse(struct http_session *session, uint16_t status)
{
	session->status = status;
	session->route = ROUTE_NONE;
	session->close = true;
	session->state = HTTP_ANSWER;
}

static void begin(struct http *http, struct http_session *session,
		  struct tcp_connection *connection, const struct http_request *request)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

	session->close = !request->keep_alive;
	session->no_body = request->head;
	session->body_left = session->body_size = request->length;
	session->hash = FNV_OFFSET;
	session->state = request->length > 0 ? HTTP_BODY : HTTP_ANSWER;
	http_route(session, request);
	if (request->has_transfer_coding) {
		refuse(session, 501); /* nothing here needs chunks, and RFC 9112 6.1 allows it */
	} else if (request->expects_continue & (request->length > 0) & !request->http10) {
		if (session->status == 200 && tcp_room(connection) >= sizeof(go_on))
			tcp_write(connection, go_on, sizeof(go_on) - 1);
		else
			refuse(session, session->status == 200 ? 417 : session->status);
	}
	http->requests++;
	session->moved = true;
}

/* Each of these returns whether it got to the next state. */
static bool read_head(struct http *http, struct http_session *session,
		      struct tcp_connection *connection)
{
	struct http_request request;
	size_t length, used = 0;
	const uint8_t *head = tcp_peek(connection, &length);
	enum http_parse result =
		length == 0 ? HTTP_INCOMPLETE
			    : http_parse(&request, (const char *)head, length, &used);

	switch (result) {
	case HTTP_COMPLETE:
		begin(http, session, connection, &request);
		break;
	case HTTP_INCOMPLETE:
		if (tcp_peer_finished(connection))
			tcp_close(connection);
		return false;
	case HTTP_BAD:
		refuse(session, 400);
		break;
	case HTTP_VERSION:
		refuse(session, 505);
		break;
	case HTTP_TOO_LARGE:
		refuse(session, 431);
		break;
	}
	tcp_consume(connection, used); /* `request` is good until here */
	return true;
}

static bool read_body(struct http_session *session, struct tcp_connection *connection)
{
	size_t length;
	const uint8_t *body = tcp_peek(connection, &length);

	length = (size_t)min(length, session->body_left);
	if (session->route == ROUTE_HASH)
		for (size_t i = 0; i < length; i++)
			session->hash = (session->hash ^ body[i]) * FNV_PRIME;
	session->body_left -= length;
	session->moved |= length > 0;
	tcp_consume(connection, length);
	if (session->body_left > 0) {
		if (tcp_peer_finished(connection))
			tcp_close(connection); /* half a request has no answer */
		return false;
	}
	session->state = HTTP_ANSWER;
	return true;
}

static bool answer(struct http *http, struct http_session *session,
		   struct tcp_connection *connection)
{
	if (session->status != 0 && !http_reply_start(http, session, connection))
		return false;
	session->status = 0; /* the head is out */
	if (!http_reply_continue(http, session, connection))
		return false;
	if (session->close) {
		tcp_close(connection);
		return false;
	}
	session->state = HTTP_HEAD;
	return true;
}

static bool step(struct http *http, struct http_session *session,
		 struct tcp_connection *connection)
{
	if (session->state == HTTP_HEAD)
		return read_head(http, session, connection);
	if (session->state == HTTP_ANSWER)
		return answer(http, session, connection);
	return read_body(session, connection);
}

static uint64_t patience(const struct http_session *session)
{
	return session->state == HTTP_ANSWER ? HTTP_STALLED : HTTP_IDLE;
}

static void on_event(void *app, struct tcp_connection *connection, enum tcp_event event)
{
	struct http *http = app;
	struct http_session *session = &http->session[tcp_index(connection)];

	switch (event) {
	case TCP_OPENED:
		memset(session, 0, sizeof(*session));
		session->moved = true;
		http->connections++;
		break;
	case TCP_READY:
		while (step(http, session, connection))
			;
		break;
	case TCP_DEADLINE:
		/* Between requests that is the end all expect; within one nobody listens. */
		if (session->state == HTTP_ANSWER)
			tcp_abort(connection);
		else
			tcp_close(connection);
		return;
	}
	if (session->moved)
		tcp_set_deadline(connection, tcp_now(connection) + patience(session));
	session->moved = false;
}

bool http_rehearse(void)
{
	static const char some[] = "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
	struct http_session session;
	struct http_request request;
	size_t used;

	if (http_parse(&request, some, sizeof(some) - 1, &used) != HTTP_COMPLETE)
		return false;
	http_route(&session, &request);
	return session.status == 200;
}

void http_listen(struct http *http, struct net *net)
{
	http->net = net;
	http->listening = true;
	tcp_listen(net, PORT_HTTP, on_event, http);
}
