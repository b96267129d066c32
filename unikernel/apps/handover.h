/* SPDX-License-Identifier: ISC */
/*
 * Takes connections over that the host has opened for us while we booted.
 *
 *	us                              the store
 *	guest = prepared,     --->      proxying
 *	and is it committed?            committed, or not yet: then a watch tells
 *	read all connections  --->
 *	guest = imported      --->
 *
 * Until it is committed nothing is ours, and we say nothing; from then on all is.
 * Below <conduit>, of which the command line tells (handoff=<service>/<epoch>):
 *
 *	handoff/<epoch>         "proxying", "committed"
 *	handoff/<epoch>/guest   our word
 *	tcpv4                   how many connections there are; and tcpv6, for IPv6
 *	tcpv4/<i>               one: key=value, apart by spaces
 *	tcpv4/<i>/rx/<j>        what its client has sent, in order
 */
#ifndef HANDOVER_H
#define HANDOVER_H

#include "store.h"

/* Connections that are read at a time: two requests each, and one to spare. */
#define HANDOVER_PULLS ((STORE_REQUESTS_APP - 1) / 2)
/* tcpv4 and tcpv6 */
#define HANDOVER_FAMILIES 2

struct handover;

/* One connection on its way to us. */
struct handover_pull {
	struct handover *handover;
	bool busy;
	bool known; /* its line has come */
	unsigned family;
	uint32_t index, chunk;
	uint64_t rx;   /* bytes still to come */
	bool finished; /* and then FIN */
	struct tcp_peer peer;
	struct tcp_connection *connection; /* NULL: nobody listens */
};

struct handover {
	struct net *net;
	struct store *store;
	void (*done)(void *context);
	void *context;
	struct slice service, epoch;
	bool asking, again; /* for the state; once more, since a watch has fired meanwhile */
	bool watched, committed, counted, over;
	uint64_t count[HANDOVER_FAMILIES]; /* connections */
	uint32_t next[HANDOVER_FAMILIES];  /* the first that nobody pulls yet */
	uint64_t imported;
	struct handover_pull pull[HANDOVER_PULLS];
};

/* `where` is <service>/<epoch>; false if it is not. Nothing is asked yet. */
bool handover_init(struct handover *handover, struct slice where, struct net *net,
		   struct store *store, void (*done)(void *context), void *context);
/* We can serve. `done` is called when all connections are ours. */
void handover_prepared(struct handover *handover);
/* Reads the line of a connection of nobody's; false if it makes no sense. See hello.c. */
bool handover_rehearse(void);
/* After `done`, once frames reach us: the host sends on what it has held until now. */
void handover_imported(struct handover *handover);
/* The store's handler brings this: a watch has fired, or (path NULL) all is to be asked again. */
void handover_event(struct handover *handover, struct slice path);

#endif
