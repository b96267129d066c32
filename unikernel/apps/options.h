/* SPDX-License-Identifier: ISC */
/*
 * The kernel command line. Words are divided by spaces; the last one of a kind
 * counts; unknown words are not ours and are passed over, as in Linux.
 *
 *	ip=<address>::<gateway>:<netmask>:<hostname>::off
 *	                    Linux's syntax (its Documentation/admin-guide/nfs/
 *	                    nfsroot.rst); gateway and hostname may be empty
 *	ip6=<address>/<bits>[,<gateway>]
 *	                    the same for IPv6; bits is how much of the address the link
 *	                    has in common. Either of the two or both
 *	store               use the host's store: tell it when we are ready, and if there is
 *	                    neither ip= nor ip6= ask it for them; one of the three is needed
 *	handoff=<service>/<epoch>
 *	                    take over, by the store, the connections that the host has
 *	                    opened for us (handover.h)
 *	listen_delay_ms=N   be on the network at once, but serve HTTP N ms later
 *	panic_ms=N          die of an invalid instruction after N ms
 *	silent=1            say nothing on the network, ever
 *
 * The last three make a bad guest, for tests of those who have to bear with one.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "net.h"

struct options {
	struct net_config net;
	struct slice hostname;
	struct slice handoff; /* empty: none */
	uint64_t listen_delay; /* ns */
	uint64_t panic_at;     /* ns; UINT64_MAX: never */
	bool silent, store;
};

/* Returns NULL, or what is wrong. `options` points into `cmdline`. */
const char *options_parse(struct options *options, const char *cmdline);
/* The same for the value of ip=, from wherever; `options` points into it. */
const char *options_parse_ip(struct options *options, struct slice value);
/* And of ip6=, into which nothing points. */
const char *options_parse_ip6(struct options *options, struct slice value);

/* An address of either family, as text. */
bool options_parse_address(struct slice text, struct ip *address);

#endif
