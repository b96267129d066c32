/* SPDX-License-Identifier: ISC */
#include "options.h"

#define HOSTNAME_MAX 63 /* a label of DNS */

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
	if (!slice_address(address, &net->address) || net->address == 0)
		return "ip=: bad address";
	if (gateway.length > 0 && !slice_address(gateway, &net->gateway))
		return "ip=: bad gateway";
	if (!slice_address(netmask, &net->netmask) || !is_netmask(net->netmask))
		return "ip=: bad netmask";
	options->hostname = slice_cut(&value, ':');
	if (!is_name(options->hostname))
		return "ip=: bad hostname";
	return NULL;
}

/* Makes room for the zeros of "::" before all but the first `gap` of `count` numbers. */
static void open_gap(uint8_t *bytes, size_t gap, size_t count)
{
	size_t zeros = 2 * (8 - count);

	for (size_t i = 16; i > 2 * gap; i--)
		bytes[i - 1] = i > 2 * gap + zeros ? bytes[i - 1 - zeros] : 0;
}

/*
 * RFC 4291 2.2, but for its third form, which ends in the decimal bytes of IPv4. In
 * one loop of few branches, for the reason in net.h.
 */
static bool parse_address6(struct slice text, struct ip *address)
{
	unsigned count = 0, gap = 9;			/* numbers complete; those before "::" */
	unsigned digits = 0, value = 0, colons = 0;	/* of this number; just before it */
	bool bad = false;

	for (size_t i = 0; i < text.length; i++) {
		uint8_t c = (uint8_t)text.start[i];
		bool letter = (uint8_t)((c | 0x20) - 'a') < 6;

		if (letter | ((uint8_t)(c - '0') < 10)) {
			bad |= (digits == 4) | (count == 8) | ((colons == 1) & (count == 0));
			if (bad)
				return false;
			value = value << 4 | ((c & 15u) + 9 * letter);
			put16(address->bytes + 2 * count, (uint16_t)value);
			digits++;
			colons = 0;
		} else {
			count += digits > 0;
			digits = value = 0;
			colons++;
			bad |= (c != ':') | (colons > 2) | ((colons == 2) & (gap < 9));
			gap = colons == 2 ? count : gap;
		}
	}
	count += digits > 0;
	if (bad | (colons == 1) | ((count == 8) != (gap == 9)))
		return false;
	if (gap < 9)
		open_gap(address->bytes, gap, count);
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
	if (slice_is(name, "handoff"))
		options->handoff = value;
	return NULL;
}

bool options_parse_address(struct slice text, struct ip *address)
{
	uint8_t bytes[4];
	uint32_t v4;

	if (!slice_address(text, &v4))
		return parse_address6(text, address);
	put32(bytes, v4);
	*address = ip_from_v4(bytes);
	return true;
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
	if (options->handoff.length > 0 && !options->store)
		return "handoff= needs store";
	return net_has_address(&options->net) | options->store ? NULL : "no ip= on the command line";
}
