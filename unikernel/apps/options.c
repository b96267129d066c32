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
	return (options->net.address == 0) & !options->store ? "no ip= on the command line" : NULL;
}
