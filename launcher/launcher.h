/* What the files of the launcher know of each other; launcher.c tells what it is for. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* -- say.c -- */

/* Say something to whoever reads the service's log. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
/* Say what has failed, and what errno(3) means, or `error` unless that is 0, and end. */
_Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *format, ...);
_Noreturn __attribute__((format(printf, 2, 3))) void fail_with(int error, const char *format, ...);

/* -- order.c -- */

enum { WORDS_MAX = 4096, PORTS_MAX = 1024 };

struct bytes {
    const uint8_t *start;
    size_t length;
};

/* What to become, and what is to be done before. Strings are of the message, or of our own command
 * line. */
struct order {
    uint16_t ports[PORTS_MAX];  /* to listen on */
    size_t ports_count;
    uint16_t probed;            /* the one of them to be opened last; 0: none */
    const char *interface;      /* our end of the link */
    uint32_t link;              /* the number of the host's end */
    struct bytes join;          /* rtnetlink requests that make that a port of the bridge, */
    struct bytes settings;      /* and those that give ours its addresses, unless it has them */
    struct bytes cpus;          /* the program's processors: see sched_setaffinity(2) */
    struct bytes announcement;  /* a frame that says that we are here, if nothing else does */
    const char *service;        /* the store has connections of this service for us, */
    const char *epoch;          /* in this life of it; of none if this is empty */
    char **program;             /* the words of its command line, then NULL */
};

/* Read what jitsu.guest.order encodes. Fails if it is anything else. */
void order_decode(struct order *order, uint8_t *data, size_t length);

/* -- privileges.c -- */

struct user {
    const char *name;           /* empty: stay who we are */
    uid_t uid;
    gid_t gid;
};

/* Find a user in passwd(5). Fails if there is none. */
struct user find_user(const char *name);
/* Become somebody who may do nothing, and never more. */
void become_user(const struct user *user);
/* Have a /proc of our own process tree: in the host's are others who are nobody. Return an errno(3)
 * if it cannot be, within a container, say. */
int see_nobody_else(void);
/* Let the program open as many files as may be. */
void raise_limit(void);

/* -- sockets.c: what the program gets, in the order in which it finds it -- */

/* Listen; on `probed` last: who is answered there takes the rest to be open, too. */
void listen_on(const uint16_t *ports, size_t count, uint16_t probed);
void keep_connection(int descriptor);
/* Put them where the program looks for them, and say in the environment what they are. */
void pass_sockets_on(void);

/* -- plug.c: the network -- */

int netlink_open(void);
/* Return the number of an interface. Fails if there is none. */
int index_of(const char *interface);
/* Bring up our end of the cable, and make the other, by `host`, a port of the bridge. */
void plug(const struct order *order, int host);
/* Say that we are here. Return the packet socket. */
int announce(const struct order *order);

/* -- store.c: the store, by the store link -- */

enum { REQUESTS_MAX = 12, DATA_MAX = 1400, VALUE_MAX = 4096 };

/* A session of the link, as jitsu.host.heir goes on with it. */
struct session {
    uint32_t number, sequence, expected;
    uint16_t in_flight;         /* bytes of `data` */
    uint8_t data[DATA_MAX];
};

struct reply {
    bool failed;                /* then the value is why */
    size_t length;
    char *value;                /* with a NUL behind it */
};

struct replies {
    size_t count;
    struct reply of[REQUESTS_MAX];
    size_t used;
    char text[REQUESTS_MAX * (VALUE_MAX + 1)];
};

extern struct session session;

/* Begin a session. Return the packet socket. */
int store_open(const char *interface);
/* Put a request to those that go out together. */
void store_write(const char *path, const char *value);
void store_read(const char *path);
void store_watch(const char *path);
void store_unwatch(const char *path);
/* Send the requests, and return when all are answered. */
void store_exchange(struct replies *replies);
/* Send them, and do not wait. */
void store_post(void);
/* Wait for the answers to what was posted. */
void store_settle(struct replies *replies);
/* Acknowledge what is to be, and hear no more. */
void store_leave(void);
/* Return when what is watched has changed since the last answers. */
void store_await_change(void);

/* -- flow.c, adopt.c, handover.c: connections -- */

union ends {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;     /* whose port is where IPv4 has it */
};

/* A connection as jitsu.wire.tcb describes it. */
struct flow {
    sa_family_t family;
    union ends local, peer;
    enum { SYN_RECEIVED, ESTABLISHED, CLOSE_WAIT } state;
    uint32_t iss, snd_nxt, snd_wnd, rcv_nxt, rcv_wnd, mss, snd_wscale, rcv_wscale;
    uint32_t sack, ts, ts_val, ts_recent, rx;
};

/* Parse a line, which is no line afterwards. Return NULL, or what makes no sense. */
const char *flow_parse(struct flow *flow, char *line);
/* Return a socket that goes on with `flow`, whose next bytes are `received`; or -1 (errno(3)). */
int adopt(const struct flow *flow, const uint8_t *received);
/* Take over the connections of a service, keep them, and post that we have. */
void take_over(const char *service, const char *epoch);

#endif
