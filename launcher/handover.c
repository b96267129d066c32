/* The guest's half of the hand-over (docs/handoff.md), by the store. */
#include "launcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOP_MAX = 80,               /* /conduit/ and the name of a service, which is a label: 63 */
    PATH_MAX_BYTES = TOP_MAX + 64,
    PIECE_MAX = 2048,           /* of what a client has sent, in one node */
    FAMILIES = 2,
    LIKELY = 3,                 /* nodes of each: how many connections there are, and the first */
    AT_ONCE = REQUESTS_MAX / 2,
    NONE = -1,
};

static char top[TOP_MAX], committed[PATH_MAX_BYTES], word[PATH_MAX_BYTES + 8];

static const char *path_of(int family, long index, long piece)
{
    static char path[PATH_MAX_BYTES];
    int length = snprintf(path, sizeof path, "%s/tcpv%d", top, family == 0 ? 4 : 6);

    if (index != NONE)
        length += snprintf(path + length, sizeof path - length, "/%ld", index);
    if (piece != NONE)
        snprintf(path + length, sizeof path - length, "/rx/%ld", piece);
    return path;
}

/* -- All of them -- */

static _Noreturn void no_connection(const char *what)
{
    fail_with(EPROTO, "no connection: %s", what);
}

/* What a client has sent; the first piece has been read already. */
static uint8_t *received(int family, long index, const struct flow *flow, const struct reply *first)
{
    static struct replies more;
    long pieces = ((long)flow->rx + PIECE_MAX - 1) / PIECE_MAX, asked;
    uint8_t *whole = malloc(flow->rx + 1);
    size_t length = 0;

    if (!whole)
        fail("what a client has sent");
    if (pieces > 0 && !first->failed && first->length <= flow->rx) {
        memcpy(whole, first->value, first->length);
        length = first->length;
    }
    for (long piece = 1; piece < pieces; piece += asked) {
        for (asked = 0; asked < REQUESTS_MAX && piece + asked < pieces; asked++)
            store_read(path_of(family, index, piece + asked));
        store_exchange(&more);
        for (long i = 0; i < asked; i++) {
            if (more.of[i].failed || more.of[i].length > flow->rx - length)
                no_connection("rx");
            memcpy(whole + length, more.of[i].value, more.of[i].length);
            length += more.of[i].length;
        }
    }
    if (length != flow->rx)
        no_connection("rx");
    return whole;
}

static void say_lost(const struct flow *flow, int number)
{
    const void *address = flow->family == AF_INET6 ? (const void *)&flow->peer.v6.sin6_addr
                                                   : (const void *)&flow->peer.v4.sin_addr;
    char peer[INET6_ADDRSTRLEN] = "";

    inet_ntop(flow->family, address, peer, sizeof peer);
    say("lost %s port %u: %s", peer, ntohs(flow->peer.v4.sin_port), strerror(number));
}

/* One that the kernel does not take is left out, and its client gets a RST. */
static void take(int family, long index, const struct reply *line, const struct reply *first)
{
    const char *wrong;
    struct flow flow;
    uint8_t *bytes;
    int here;

    if (line->failed)
        no_connection("line");
    wrong = flow_parse(&flow, line->value);
    if (wrong)
        no_connection(wrong);
    bytes = received(family, index, &flow, first);
    here = adopt(&flow, bytes);
    if (here >= 0)
        keep_connection(here);
    else
        say_lost(&flow, errno);
    free(bytes);
}

/* But the first, some at once, each with the first piece of what its client has sent. */
static void take_others(int family, long count)
{
    static struct replies some;
    long asked;

    for (long index = 1; index < count; index += asked) {
        for (asked = 0; asked < AT_ONCE && index + asked < count; asked++) {
            store_read(path_of(family, index + asked, NONE));
            store_read(path_of(family, index + asked, 0));
        }
        store_exchange(&some);
        for (long i = 0; i < asked; i++)
            take(family, index + i, &some.of[2 * i], &some.of[2 * i + 1]);
    }
}

/* Whether it is committed, and if so all that there is, mostly. */
static void ask_likely(void)
{
    store_read(committed);
    for (int family = 0; family < FAMILIES; family++) {
        store_read(path_of(family, NONE, NONE));
        store_read(path_of(family, 0, NONE));
        store_read(path_of(family, 0, 0));
    }
}

static bool is_committed(const struct reply *reply)
{
    return !reply->failed && strcmp(reply->value, "committed") == 0;
}

/* Return what was likely, once it is true: what is read after the commit is ours. Mostly the commit
 * is done by the time that our word is. */
static const struct reply *prepare(bool *watched)
{
    static struct replies replies;

    store_write(word, "prepared");
    ask_likely();
    store_exchange(&replies);
    if (replies.of[0].failed)
        fail_with(EACCES, "the store refuses to write %s", word);
    *watched = !is_committed(&replies.of[1]);
    if (!*watched)
        return &replies.of[2];
    store_watch(committed);
    ask_likely();
    store_exchange(&replies);
    if (replies.of[0].failed)
        fail_with(EACCES, "the store refuses to watch %s", committed);
    if (is_committed(&replies.of[1]))
        return &replies.of[2];
    do {
        store_await_change();
        ask_likely();
        store_exchange(&replies);
    } while (!is_committed(&replies.of[0]));
    return &replies.of[1];
}

void take_over(const char *service, const char *epoch)
{
    const struct reply *of;
    bool watched;

    snprintf(top, sizeof top, "/conduit/%s", service);
    snprintf(committed, sizeof committed, "%s/handoff/%.20s", top, epoch);
    snprintf(word, sizeof word, "%s/guest", committed);
    of = prepare(&watched);
    for (int family = 0; family < FAMILIES; family++, of += LIKELY) {
        long count = of[0].failed ? 0 : strtol(of[0].value, NULL, 10);

        if (count > 0)
            take(family, 0, &of[1], &of[2]);
        take_others(family, count);
    }
    if (watched)
        store_unwatch(committed);
    store_write(word, "imported");
    store_post();
}
