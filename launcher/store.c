/* The store, by the store link (jitsu.core.xenstore.link): a packet socket, and on it a session.
 *
 * Requests go out together in one segment, whose answers come in order, for the host serves a
 * guest's requests one after the other. Each direction is stop-and-wait; what is not acknowledged
 * is sent again, for ever. Our own acknowledgements travel with the next request, or go by
 * themselves when we come to wait.
 *
 * What is in flight when we become the program is for the daemon to see through, which gets the
 * socket and the session: nothing that we say is lost, and no client waits for its acknowledgement.
 */
#include "launcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    STORE_LINK = 0x88b5,        /* the frames' type */
    LINK_HEADER = 16,
    VERSION = 1,
    OPEN = 1, RESET = 2,        /* flags */
    RETRY_FIRST = 10, RETRY_MAX = 640,  /* milliseconds */
};
/* enum xsd_sockmsg_type of Xen's io/xs_wire.h, and its header's fields */
enum { READ = 2, WATCH = 4, UNWATCH = 5, WRITE = 11, WATCH_EVENT = 15, ERROR = 16 };
enum { TYPE, REQUEST, TRANSACTION, LENGTH, WORDS };

static const char token[] = "it";
/* The nearest bridge, which forwards nothing that is sent to it (IEEE 802.1D 7.12.6). */
static const uint8_t nearest_bridge[] = {0x01, 0x80, 0xc2, 0, 0, 0x0e};

struct session session;

static int wire;
static struct sockaddr_ll host;
static bool heard, owed;        /* anything of the host; an acknowledgement to it */
static uint8_t requests[DATA_MAX];
static size_t requests_length, requests_count;
static struct replies *answers; /* to be filled in, of so many requests: */
static size_t asked;
static bool changed;            /* what is watched, since the last answers */
static uint8_t message[WORDS * 4 + VALUE_MAX];
static size_t message_length;   /* of what has come of it */

int store_open(const char *interface)
{
    host = (struct sockaddr_ll){
        .sll_family = AF_PACKET,
        .sll_protocol = htons(STORE_LINK),
        .sll_ifindex = index_of(interface),
        .sll_halen = sizeof nearest_bridge,
    };
    memcpy(host.sll_addr, nearest_bridge, sizeof nearest_bridge);
    wire = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (wire < 0 || bind(wire, (struct sockaddr *)&host, sizeof host))
        fail("%s", interface);
    while (session.number == 0)
        if (getrandom(&session.number, sizeof session.number, 0) < 0)
            fail("random numbers");
    return wire;
}

/* -- Segments -- */

static void put(uint8_t *at, uint32_t value)
{
    value = htonl(value);
    memcpy(at, &value, sizeof value);
}

static uint32_t get(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return ntohl(value);
}

/* Without data it names the next number, and one in flight has taken its own. */
static void transmit(const uint8_t *data, size_t length)
{
    uint8_t frame[LINK_HEADER + DATA_MAX] = {VERSION, heard ? 0 : OPEN, length >> 8, length & 0xff};
    bool taken = length == 0 && session.in_flight > 0;

    put(frame + 4, session.number);
    put(frame + 8, session.sequence + taken);
    put(frame + 12, session.expected);
    if (length > 0)
        memcpy(frame + LINK_HEADER, data, length);
    owed = false;
    /* Where it is not up yet, or its queue is full, the frame is sent again. */
    (void)!sendto(wire, frame, LINK_HEADER + length, 0, (struct sockaddr *)&host, sizeof host);
}

static void whole_message(void)
{
    uint32_t header[WORDS];
    struct reply *reply;

    memcpy(header, message, sizeof header);  /* little-endian, as we are */
    if (header[TYPE] == WATCH_EVENT) {
        changed = true;
        return;
    }
    if (!answers || header[REQUEST] != answers->count || answers->count >= asked)
        fail_with(EPROTO, "the store");
    reply = &answers->of[answers->count++];
    *reply = (struct reply){
        header[TYPE] == ERROR, header[LENGTH], answers->text + answers->used,
    };
    memcpy(reply->value, message + sizeof header, reply->length);
    reply->value[reply->length] = 0;
    answers->used += reply->length + 1;
    if (answers->count == asked)
        changed = false;        /* what has changed until then is in the answers */
}

static void take(const uint8_t *data, size_t length)
{
    uint32_t header[WORDS];
    size_t wanted;

    while (length > 0) {
        wanted = sizeof header;
        if (message_length >= sizeof header) {
            memcpy(header, message, sizeof header);
            if (header[LENGTH] > VALUE_MAX)
                fail_with(EPROTO, "the store");
            wanted += header[LENGTH];
        }
        wanted -= message_length;
        wanted = wanted < length ? wanted : length;
        memcpy(message + message_length, data, wanted);
        message_length += wanted;
        data += wanted;
        length -= wanted;
        if (message_length < sizeof header)
            continue;
        memcpy(header, message, sizeof header);
        if (message_length == sizeof header + header[LENGTH]) {
            message_length = 0;
            whole_message();
        }
    }
}

static void receive(void)
{
    uint8_t frame[LINK_HEADER + DATA_MAX + 64];
    ssize_t length = recv(wire, frame, sizeof frame, 0);
    size_t data;

    if (length < LINK_HEADER || frame[0] != VERSION || get(frame + 4) != session.number)
        return;                 /* of nobody, of another session, or an error of the socket */
    data = frame[2] << 8 | frame[3];
    if (data > DATA_MAX || data > (size_t)length - LINK_HEADER)
        return;
    if (frame[1] & RESET)
        fail_with(ECONNRESET, "the host has forgotten this guest");
    heard = true;
    if (session.in_flight > 0 && get(frame + 12) == session.sequence + 1) {
        session.sequence++;
        session.in_flight = 0;
    }
    if (data == 0)
        return;
    owed = true;
    if (get(frame + 8) != session.expected)
        return;                 /* it has come before */
    session.expected++;
    take(frame + LINK_HEADER, data);
}

/* -- Requests -- */

static void request(uint32_t type, const char *path, const char *more, size_t more_length)
{
    size_t path_length = strlen(path) + 1;
    uint32_t header[WORDS] = {type, requests_count, 0, path_length + more_length};
    uint8_t *at = requests + requests_length;

    if (sizeof header + header[LENGTH] > sizeof requests - requests_length ||
        requests_count == REQUESTS_MAX)
        fail_with(E2BIG, "requests to the store");
    memcpy(at, header, sizeof header);
    memcpy(at + sizeof header, path, path_length);
    memcpy(at + sizeof header + path_length, more, more_length);
    requests_length += sizeof header + header[LENGTH];
    requests_count++;
}

void store_write(const char *path, const char *value)
{
    request(WRITE, path, value, strlen(value));
}

void store_read(const char *path)
{
    request(READ, path, "", 0);
}

void store_watch(const char *path)
{
    request(WATCH, path, token, sizeof token);
}

void store_unwatch(const char *path)
{
    request(UNWATCH, path, token, sizeof token);
}

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Receives until `enough`, and sends what is in flight as often as that takes. */
static void wait_until(bool (*enough)(void))
{
    struct pollfd readable = {.fd = wire, .events = POLLIN};
    int64_t interval = RETRY_FIRST, again = now() + interval;

    for (;;) {
        while (!enough() && (receive(), !enough())) {
            int64_t left = again - now();

            if (owed)
                transmit(NULL, 0);
            if (poll(&readable, 1, session.in_flight == 0 ? -1 : left > 0 ? (int)left : 0) == 0)
                break;
        }
        if (enough())
            return;
        interval = interval * 2 < RETRY_MAX ? interval * 2 : RETRY_MAX;
        again = now() + interval;
        transmit(session.data, session.in_flight);
    }
}

static bool nothing_in_flight(void)
{
    return session.in_flight == 0;
}

static bool all_answered(void)
{
    return answers->count == asked;
}

static bool has_changed(void)
{
    return changed;
}

void store_post(void)
{
    wait_until(nothing_in_flight);  /* mostly the answers have acknowledged it */
    memcpy(session.data, requests, requests_length);
    session.in_flight = requests_length;
    asked = requests_count;
    requests_length = requests_count = 0;
    answers = NULL;
    transmit(session.data, session.in_flight);
}

void store_settle(struct replies *replies)
{
    replies->count = replies->used = 0;
    answers = replies;
    wait_until(all_answered);
    answers = NULL;
}

void store_exchange(struct replies *replies)
{
    store_post();
    store_settle(replies);
}

void store_await_change(void)
{
    wait_until(has_changed);
}

void store_leave(void)
{
    if (owed)
        transmit(NULL, 0);
    close(wire);
}
