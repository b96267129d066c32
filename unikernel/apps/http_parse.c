/* SPDX-License-Identifier: ISC */
/*
 * The head of a request (RFC 9112 2-5). Strict where laxness has let one request
 * be read as two: any doubt about where a body ends is an error.
 */
#include "http.h"

/* What a byte may be part of. */
enum {
	TOKEN = 1,   /* RFC 9110 5.6.2 */
	VISIBLE = 2, /* of US-ASCII */
	VALUE = 4,   /* of a field (RFC 9110 5.5) */
	BLANK = 8,
	IN_LINE = 16, /* all but its end */
	MARK = VISIBLE | VALUE | IN_LINE,
	LETTER = MARK | TOKEN /* or another that tokens are made of */
};

static const uint8_t classes[256] = {
	[0 ... 8] = IN_LINE,
	['\t'] = BLANK | VALUE | IN_LINE,
	[11 ... 31] = IN_LINE,
	[' '] = BLANK | VALUE | IN_LINE,
	['!'] = LETTER,
	['"'] = MARK,
	['#' ... '\''] = LETTER,
	['(' ... ')'] = MARK,
	['*' ... '+'] = LETTER,
	[','] = MARK,
	['-' ... '.'] = LETTER,
	['/'] = MARK,
	['0' ... '9'] = LETTER,
	[':' ... '@'] = MARK,
	['A' ... 'Z'] = LETTER,
	['[' ... ']'] = MARK,
	['^' ... 'z'] = LETTER,
	['{'] = MARK,
	['|'] = LETTER,
	['}'] = MARK,
	['~'] = LETTER,
	[127] = IN_LINE,
	[128 ... 255] = VALUE | IN_LINE,
};

/*
 * Where the run of bytes of that class ends. The line's end belongs to none of the
 * classes used, so within a complete line it need not be looked for.
 */
static const char *skip(const char *at, uint8_t class)
{
	while ((classes[(uint8_t)*at] & class) != 0)
		at++;
	return at;
}

static struct slice between(const char *start, const char *end)
{
	return (struct slice){ start, (size_t)(end - start) };
}

static struct slice trim(struct slice text)
{
	while (text.length > 0 && (classes[(uint8_t)text.start[0]] & BLANK) != 0)
		text = slice_from(text, 1);
	while (text.length > 0 && (classes[(uint8_t)text.start[text.length - 1]] & BLANK) != 0)
		text.length--;
	return text;
}

/* Takes a line; a lone LF ends one as well (RFC 9112 2.2). False if none is complete. */
static bool cut_line(struct slice *rest, struct slice *line)
{
	const char *end = rest->start, *limit = rest->start + rest->length;

	while (end < limit && *end != '\n')
		end++;
	if (end == limit)
		return false;
	*line = between(rest->start, end);
	*rest = between(end + 1, limit);
	if (line->length > 0 && line->start[line->length - 1] == '\r')
		line->length--;
	return true;
}

/* The path of "/path?query" or of "http://host/path?query" (RFC 9112 3.2). */
static struct slice path_of(struct slice target)
{
	if (target.start[0] != '/' && slice_starts(target, "http://")) {
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
	const char *method_end = skip(line.start, TOKEN), *target_end;
	struct slice version;

	request->method = between(line.start, method_end);
	if ((request->method.length == 0) | (*method_end != ' '))
		return HTTP_BAD;
	target_end = skip(method_end + 1, VISIBLE);
	request->target = between(method_end + 1, target_end);
	if ((request->target.length == 0) | (*target_end != ' '))
		return HTTP_BAD;
	version = between(target_end + 1, line.start + line.length);
	if (version.length != 8)
		return HTTP_BAD;
	if (memcmp(version.start, "HTTP/1.", 7) != 0)
		return slice_starts(version, "HTTP/") && version.start[6] == '.' ? HTTP_VERSION
										 : HTTP_BAD;
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

/* The fields that mean something to us. */
enum field { HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, EXPECT, OTHER };

static enum field find_field(struct slice name)
{
	static const struct slice names[] = {
		[HOST] = SLICE("host"),
		[CONTENT_LENGTH] = SLICE("content-length"),
		[TRANSFER_ENCODING] = SLICE("transfer-encoding"),
		[CONNECTION] = SLICE("connection"),
		[EXPECT] = SLICE("expect"),
	};
	enum field field = HOST;

	while (field < OTHER && !slice_equal_caseless(name, names[field]))
		field++;
	return field;
}

static enum http_parse parse_field(struct http_request *request, struct slice line)
{
	const char *name_end = skip(line.start, TOKEN), *end = line.start + line.length;
	struct slice value;

	/* A line that begins with a space (obsolete folding) has no token either. */
	if ((name_end == line.start) | (*name_end != ':') || skip(name_end + 1, VALUE) != end)
		return HTTP_BAD;
	value = between(name_end + 1, end);
	switch (find_field(between(line.start, name_end))) {
	case HOST:
		if (request->has_host)
			return HTTP_BAD;
		request->has_host = true;
		break;
	case CONTENT_LENGTH:
		if (request->has_length || !slice_decimal(trim(value), &request->length))
			return HTTP_BAD;
		request->has_length = true;
		break;
	case TRANSFER_ENCODING:
		request->has_transfer_coding = true;
		break;
	case CONNECTION:
		parse_connection(request, value);
		break;
	case EXPECT:
		request->expects_continue = slice_is_caseless(trim(value), "100-continue");
		break;
	case OTHER:
		break;
	}
	return HTTP_COMPLETE;
}

static enum http_parse check(const struct http_request *request)
{
	/* RFC 9112 3.2, and 6.1: perhaps an attempt at smuggling. */
	bool nowhere = !request->http10 & !request->has_host;
	bool smuggled = request->has_transfer_coding & (request->has_length | request->http10);

	return nowhere | smuggled ? HTTP_BAD : HTTP_COMPLETE;
}

enum http_parse http_parse(struct http_request *request, const char *head, size_t length,
			   size_t *used)
{
	struct slice rest = { head, min(length, HTTP_HEAD_MAX) }, line;

	memset(request, 0, sizeof(*request));
	while (cut_line(&rest, &line)) {
		bool first = request->method.length == 0;
		enum http_parse result;

		if (line.length == 0) {
			if (first)
				continue; /* before a request it is passed over (RFC 9112 2.2) */
			*used = (size_t)(rest.start - head);
			return check(request);
		}
		result = first ? parse_request_line(request, line) : parse_field(request, line);
		if (result != HTTP_COMPLETE)
			return result;
	}
	return length >= HTTP_HEAD_MAX ? HTTP_TOO_LARGE : HTTP_INCOMPLETE;
}
