/* SPDX-License-Identifier: ISC */
/*
 * The head of a request (RFC 9112 2-5). Strict where laxness has let one request
 * be read as two: any doubt about where a body ends is an error.
 */
#include "http.h"

#define TOKEN_MARKS "!#$%&'*+-.^_`|~"

static bool is_token(struct slice text)
{
	for (size_t i = 0; i < text.length; i++) {
		char c = text.start[i];
		const char *mark = TOKEN_MARKS;

		if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
			continue;
		while (*mark != '\0' && *mark != c)
			mark++;
		if (*mark == '\0')
			return false;
	}
	return text.length > 0;
}

static bool is_printable(struct slice text)
{
	for (size_t i = 0; i < text.length; i++)
		if (text.start[i] <= ' ' || text.start[i] == 0x7f)
			return false;
	return text.length > 0;
}

static bool is_field_value(struct slice text)
{
	for (size_t i = 0; i < text.length; i++) {
		uint8_t c = (uint8_t)text.start[i];

		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static struct slice trim(struct slice text)
{
	while (text.length > 0 && (text.start[0] == ' ' || text.start[0] == '\t'))
		text = slice_from(text, 1);
	while (text.length > 0 && (text.start[text.length - 1] == ' ' ||
				   text.start[text.length - 1] == '\t'))
		text.length--;
	return text;
}

/* Takes a line; a lone LF ends one as well (RFC 9112 2.2). False if none is complete. */
static bool cut_line(struct slice *rest, struct slice *line)
{
	struct slice before = *rest;

	*line = slice_cut(rest, '\n');
	if (line->length == before.length) {
		*rest = before;
		return false;
	}
	if (line->length > 0 && line->start[line->length - 1] == '\r')
		line->length--;
	return true;
}

/* The path of "/path?query" or of "http://host/path?query" (RFC 9112 3.2). */
static struct slice path_of(struct slice target)
{
	if (slice_starts(target, "http://")) {
		target = slice_from(target, 7);
		while (target.length > 0 && target.start[0] != '/' && target.start[0] != '?')
			target = slice_from(target, 1);
		if (target.length == 0 || target.start[0] == '?')
			return (struct slice){ "/", 1 };
	}
	return slice_cut(&target, '?');
}

static enum http_parse parse_request_line(struct http_request *request, struct slice line)
{
	struct slice version;

	request->method = slice_cut(&line, ' ');
	request->target = slice_cut(&line, ' ');
	version = line;
	if (!is_token(request->method) || !is_printable(request->target))
		return HTTP_BAD;
	if (version.length != 8 || !slice_starts(version, "HTTP/") || version.start[6] != '.')
		return HTTP_BAD;
	if (version.start[5] != '1')
		return HTTP_VERSION;
	request->http10 = version.start[7] == '0';
	request->keep_alive = !request->http10;
	request->head = slice_is(request->method, "HEAD");
	request->path = path_of(request->target);
	return HTTP_COMPLETE;
}

/* The options of Connection: "close" outdoes "keep-alive". */
static void parse_connection(struct http_request *request, struct slice value)
{
	while (value.length > 0) {
		struct slice option = trim(slice_cut(&value, ','));

		if (slice_is_caseless(option, "close")) {
			request->keep_alive = false;
			return;
		}
		if (slice_is_caseless(option, "keep-alive"))
			request->keep_alive = true;
	}
}

static enum http_parse parse_field(struct http_request *request, struct slice line)
{
	struct slice value = line;
	struct slice name = slice_cut(&value, ':');

	/* A line that begins with a space (obsolete folding) has no token either. */
	if (!is_token(name) || name.length == line.length || !is_field_value(value))
		return HTTP_BAD;
	value = trim(value);
	if (slice_is_caseless(name, "host")) {
		if (request->has_host)
			return HTTP_BAD;
		request->has_host = true;
	} else if (slice_is_caseless(name, "content-length")) {
		if (request->has_length || !slice_decimal(value, &request->length))
			return HTTP_BAD;
		request->has_length = true;
	} else if (slice_is_caseless(name, "transfer-encoding")) {
		request->has_transfer_coding = true;
	} else if (slice_is_caseless(name, "connection")) {
		parse_connection(request, value);
	} else if (slice_is_caseless(name, "expect")) {
		request->expects_continue = slice_is_caseless(value, "100-continue");
	}
	return HTTP_COMPLETE;
}

static enum http_parse check(const struct http_request *request)
{
	if (!request->http10 && !request->has_host)
		return HTTP_BAD; /* RFC 9112 3.2 */
	if (request->has_transfer_coding && (request->has_length || request->http10))
		return HTTP_BAD; /* RFC 9112 6.1: perhaps an attempt at smuggling */
	return HTTP_COMPLETE;
}

static enum http_parse incomplete(size_t length)
{
	return length >= HTTP_HEAD_MAX ? HTTP_TOO_LARGE : HTTP_INCOMPLETE;
}

enum http_parse http_parse(struct http_request *request, const char *head, size_t length,
			   size_t *used)
{
	struct slice rest = { head, min(length, HTTP_HEAD_MAX) }, line;
	enum http_parse result;

	*request = (struct http_request){ 0 };
	do { /* empty lines before a request are passed over (RFC 9112 2.2) */
		if (!cut_line(&rest, &line))
			return incomplete(length);
	} while (line.length == 0);
	result = parse_request_line(request, line);
	while (result == HTTP_COMPLETE) {
		if (!cut_line(&rest, &line))
			return incomplete(length);
		if (line.length == 0) {
			*used = (size_t)(rest.start - head);
			return check(request);
		}
		result = parse_field(request, line);
	}
	return result;
}
