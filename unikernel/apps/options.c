/* SPDX-License-Identifier: ISC */
#include "options.h"

#define HOSTNAME_MAX 63 /* a label of DNS */

static bool parse_address(struct slice text, uint32_t *address)
{
	uint32_t result = 0;

	for (int i = 0; i < 4; i++) {
		uint64_t byte;

		if (!slice_decimal(slice_cut(&text, '.'), &byte) || byte > 255)
			return false;
		result = result << 8 | (uint32_t)byte;
	}
	*address = result;
	return text.length == 0;
}

static bool is_netmask(uint32_t mask)
{
	uint32_t host = ~mask;

	return (host & (host + 1)) == 0 && mask != 0;
}

static bool is_name(struct slice name)
{
	for (size_t i = 0; i < name.length; i++) {
		char c = name.start[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
		    c != '-' && c != '.' && c != '_')
			return false;
	}
	return name.length <= HOSTNAME_MAX;
}

const char *options_parse_ip(struct options *options, struct slice value)
{
	struct slice address = slice_cut(&value, ':');
	struct slice server = slice_cut(&value, ':');
	struct slice gateway = slice_cut(&value, ':');
	struct slice netmask = slice_cut(&value, ':');
	struct net_config *net = &options->net;

	(void)server; /* of the NFS root: not for us, nor are device and autoconf */
	if (!parse_address(address, &net->address) || net->address == 0)
		return "ip=: bad address";
	if (gateway.length > 0 && !parse_address(gateway, &net->gateway))
		return "ip=: bad gateway";
	if (!parse_address(netmask, &net->netmask) || !is_netmask(net->netmask))
		return "ip=: bad netmask";
	options->hostname = slice_cut(&value, ':');
	if (!is_name(options->hostname))
		return "ip=: bad hostname";
	return NULL;
}

static unsigned hex_digit(char c)
{
	char lower = c | 0x20;

	if ((c >= '0') & (c <= '9'))
		return (unsigned)(c - '0');
	return (lower >= 'a') & (lower <= 'f') ? (unsigned)(lower - 'a' + 10) : 16;
}

/* Takes up to four hexadecimal digits off the front. */
static bool take_number(struct slice *text, uint8_t *bytes)
{
	unsigned value = 0;
	size_t digits = 0;

	while (digits < min(text->length, 4u) && hex_digit(text->start[digits]) < 16)
		value = value << 4 | hex_digit(text->start[digits++]);
	put16(bytes, (uint16_t)value);
	*text = slice_from(*text, digits);
	return digits > 0;
}

/* RFC 4291 2.2, but for its third form, which ends in the decimal bytes of IPv4. */
static bool parse_address6(struct slice text, struct ip *address)
{
	size_t length = 0, gap = SIZE_MAX; /* where "::" was */
	bool divided = true;		   /* no colon is due before the next number */
	uint8_t *bytes = address->bytes;

	while (text.length > 0) {
		if (slice_starts(text, "::")) {
			if (gap != SIZE_MAX)
				return false;
			gap = length;
			text = slice_from(text, 2);
			divided = true;
			continue;
		}
		if (!divided) {
			if (text.start[0] != ':')
				return false;
			text = slice_from(text, 1);
		}
		if (length == 16 || !take_number(&text, bytes + length))
			return false;
		length += 2;
		divided = false;
	}
	if (gap == SIZE_MAX || length == 16)
		return (gap == SIZE_MAX) & (length == 16);
	memmove(bytes + 16 - (length - gap), bytes + gap, length - gap);
	memset(bytes + gap, 0, 16 - length);
	return true;
}

/* One of a host on a link; what begins with ::/64 is none, and means none here. */
static bool parse_host6(struct slice text, struct ip *address)
{
	return parse_address6(text, address) && address->word[0] != 0 && !ip_is_multicast(*address);
}

const char *options_parse_ip6(struct options *options, struct slice value)
{
	struct slice address = slice_cut(&value, '/');
	struct slice bits = slice_cut(&value, ',');
	struct net_config *net = &options->net;
	uint64_t prefix;

	if (!parse_host6(address, &net->address6))
		return "ip6=: bad address";
	if (!slice_decimal(bits, &prefix) || prefix > 128)
		return "ip6=: bad prefix length";
	net->prefix6 = (unsigned)prefix;
	if (value.length > 0 && !parse_host6(value, &net->gateway6))
		return "ip6=: bad gateway";
	return NULL;
}

/* Milliseconds, up to a day, as nanoseconds. */
static bool parse_ms(struct slice text, uint64_t *ns)
{
	uint64_t value;

	if (!slice_decimal(text, &value) || value > 86400000)
		return false;
	*ns = value * MS;
	return true;
}

static const char *parse_word(struct options *options, struct slice name, struct slice value)
{
	if (slice_is(name, "ip"))
		return options_parse_ip(options, value);
	if (slice_is(name, "ip6"))
		return options_parse_ip6(options, value);
	if (slice_is(name, "listen_delay_ms") && !parse_ms(value, &options->listen_delay))
		return "listen_delay_ms=: not a number";
	if (slice_is(name, "panic_ms") && !parse_ms(value, &options->panic_at))
		return "panic_ms=: not a number";
	if (slice_is(name, "silent"))
		options->silent = slice_is(value, "1");
	if (slice_is(name, "store"))
		options->store = true;
	return NULL;
}

const char *options_parse(struct options *options, const char *cmdline)
{
	struct slice rest = { cmdline, strlen(cmdline) };

	*options = (struct options){ .panic_at = PLATFORM_NEVER, .hostname = { "guest", 5 } };
	while (rest.length > 0) {
		struct slice value = slice_cut(&rest, ' ');
		struct slice name = slice_cut(&value, '=');
		const char *error = parse_word(options, name, value);

		if (error != NULL)
			return error;
	}
	return net_has_address(&options->net) | options->store ? NULL : "no ip= on the command line";
}
