/* The sockets of the program. */
#include "launcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    FIRST = 3,                  /* where it looks for them */
    BACKLOG = 4096,
};

static int *sockets;            /* listeners, then connections */
static size_t listeners_count, connections_count;

static void make_room(size_t more)
{
    sockets = realloc(sockets, (listeners_count + connections_count + more) * sizeof *sockets);
    if (!sockets)
        fail("sockets");
}

void keep_connection(int descriptor)
{
    make_room(1);
    sockets[listeners_count + connections_count++] = descriptor;
}

/* Over IPv6 for IPv4 as well. Returns -1 where that is not possible. */
static int listener(int family, uint16_t port)
{
    union ends any = {.any.sa_family = family};
    int here = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0, number;

    if (here < 0)
        return -1;
    any.v4.sin_port = htons(port);
    if (setsockopt(here, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        (family == AF_INET6 && setsockopt(here, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off)) ||
        bind(here, &any.any, family == AF_INET6 ? sizeof any.v6 : sizeof any.v4) ||
        listen(here, BACKLOG)) {
        number = errno;
        close(here);
        errno = number;
        return -1;
    }
    return here;
}

static int open_port(uint16_t port)
{
    int here = listener(AF_INET6, port);

    if (here < 0)               /* no IPv6 here, or somebody else listens */
        here = listener(AF_INET, port);
    if (here < 0)
        fail("cannot listen on port %u", port);
    return here;
}

void listen_on(const uint16_t *ports, size_t count, uint16_t probed)
{
    make_room(count);
    for (int late = 0; late <= 1; late++)
        for (size_t i = 0; i < count; i++)
            if ((ports[i] == probed) == late)
                sockets[i] = open_port(ports[i]);
    listeners_count = count;
}

/* sd_listen_fds(3) */
static void tell(void)
{
    static const char listener_word[] = "listen:", connection_word[] = "connection:";
    char number[24], *names, *at;

    names = at = malloc(listeners_count * sizeof listener_word +
                        connections_count * sizeof connection_word);
    if (!names)
        fail("the environment");
    for (size_t i = 0; i < listeners_count; i++)
        at = stpcpy(at, listener_word);
    for (size_t i = 0; i < connections_count; i++)
        at = stpcpy(at, connection_word);
    at[-1] = 0;                 /* not after the last */
    snprintf(number, sizeof number, "%d", getpid());
    setenv("LISTEN_PID", number, 1);
    snprintf(number, sizeof number, "%zu", listeners_count + connections_count);
    setenv("LISTEN_FDS", number, 1);
    setenv("LISTEN_FDNAMES", names, 1);
    free(names);
}

void pass_sockets_on(void)
{
    size_t count = listeners_count + connections_count;
    int above = FIRST + (int)count;

    for (size_t i = 0; i < count; i++)
        if (sockets[i] < above && (sockets[i] = fcntl(sockets[i], F_DUPFD_CLOEXEC, above)) < 0)
            fail("cannot pass a socket on");
    for (size_t i = 0; i < count; i++)
        if (dup2(sockets[i], FIRST + (int)i) < 0)
            fail("cannot pass a socket on");
    if (count > 0)
        tell();
}
