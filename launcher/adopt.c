/* Connections that become sockets of this kernel, by TCP_REPAIR (net/ipv4/tcp.c, after CRIU).
 *
 * A socket in repair mode takes sequence numbers, queues, options and windows as they are told it,
 * binds and connects without a packet, and is ESTABLISHED when the mode ends. Two states have no
 * such way in:
 *
 *     syn-received    the socket is ESTABLISHED. Should the SYN-ACK have been lost, the client
 *                     asks again and the kernel's answer does not help it, so the SYN-ACK is sent
 *                     once more. Keep-alives find out who was never there.
 *     close-wait      the client's FIN is sent to the socket, from this machine to itself, until
 *                     it has come: an IPv6 address that is new has its local route only when a
 *                     worker of the kernel's has had its turn (addrconf_dad_work).
 */
#include "launcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <string.h>
#include <unistd.h>

enum {
    RECV_QUEUE = 1, SEND_QUEUE = 2,
    OPTION_MSS = 2, OPTION_WINDOW_SCALE = 3, OPTION_SACK = 4, OPTION_TIMESTAMPS = 8,
    PIECE = 16 << 10,
    HEADER = 20,
    TTL = 64,
    SYN = 2, FIN = 1, ACK = 16,
    KERNEL_ESTABLISHED = 1,     /* of netinet/tcp.h, which linux/tcp.h does not go with */
    FIN_TRIES = 5000, FIN_RETRY = 1000,         /* microseconds */
};

static socklen_t size_of(const struct flow *flow)
{
    return flow->family == AF_INET6 ? sizeof flow->local.v6 : sizeof flow->local.v4;
}

static bool set(int here, int option, const void *value, socklen_t length)
{
    return setsockopt(here, IPPROTO_TCP, option, value, length) == 0;
}

static bool set_number(int here, int option, int value)
{
    return set(here, option, &value, sizeof value);
}

/* The number after the last byte of the client's; its FIN, if any, has it. */
static uint32_t expects(const struct flow *flow)
{
    return flow->rcv_nxt - (flow->state == CLOSE_WAIT);
}

static bool set_queue(int here, int queue, uint32_t next)
{
    return set_number(here, TCP_REPAIR_QUEUE, queue) &&
           set(here, TCP_QUEUE_SEQ, &next, sizeof next);
}

/* Windows are scaled: if by 0 both ways, it is all the same. */
static bool scales(const struct flow *flow)
{
    return flow->snd_wscale || flow->rcv_wscale;
}

/* What was agreed on. */
static bool set_options(int here, const struct flow *flow)
{
    struct tcp_repair_opt options[4] = {{OPTION_MSS, flow->mss}};
    size_t count = 1;
    uint32_t clock = flow->ts_val + 1;

    if (scales(flow))
        options[count++] = (struct tcp_repair_opt){
            OPTION_WINDOW_SCALE, flow->snd_wscale | flow->rcv_wscale << 16,
        };
    if (flow->sack)
        options[count++] = (struct tcp_repair_opt){OPTION_SACK, 0};
    if (flow->ts)
        options[count++] = (struct tcp_repair_opt){OPTION_TIMESTAMPS, 0};
    return set(here, TCP_REPAIR_OPTIONS, options, count * sizeof *options) &&
           (!flow->ts || set(here, TCP_TIMESTAMP, &clock, sizeof clock));
}

static bool fill(int here, const uint8_t *received, size_t length)
{
    size_t piece;
    ssize_t sent;

    for (; length > 0; received += sent, length -= sent) {
        piece = length < PIECE ? length : PIECE;
        sent = send(here, received, piece, 0);
        if (sent < 0)
            return false;
    }
    return true;
}

static bool restore(int here, const struct flow *flow, const uint8_t *received)
{
    uint32_t expected = expects(flow);
    struct tcp_repair_window windows = {
        expected, flow->snd_wnd, flow->snd_wnd, flow->rcv_wnd, expected,
    };

    return set_number(here, TCP_REPAIR, 1) && set_queue(here, SEND_QUEUE, flow->snd_nxt) &&
           set_queue(here, RECV_QUEUE, expected - flow->rx) &&
           bind(here, &flow->local.any, size_of(flow)) == 0 &&
           connect(here, &flow->peer.any, size_of(flow)) == 0 && set_options(here, flow) &&
           set_number(here, TCP_REPAIR_QUEUE, RECV_QUEUE) && fill(here, received, flow->rx) &&
           set(here, TCP_REPAIR_WINDOW, &windows, sizeof windows) &&
           set_number(here, TCP_REPAIR, 0);
}

/* -- What goes past the kernel's own TCP -- */

static uint32_t sum(uint32_t so_far, const void *data, size_t length)
{
    const uint8_t *byte = data;

    for (size_t i = 0; i < length; i++)
        so_far += byte[i] << (i % 2 ? 0 : 8);
    return so_far;
}

static uint16_t checksum(const union ends *source, const union ends *to, const uint8_t *segment,
                         size_t length)
{
    uint32_t total = sum(IPPROTO_TCP + length, segment, length);

    for (int i = 0; i < 2; i++) {
        const union ends *end = i ? to : source;

        total = end->any.sa_family == AF_INET6 ? sum(total, &end->v6.sin6_addr, 16)
                                               : sum(total, &end->v4.sin_addr, 4);
    }
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return ~total;
}

static size_t ip_header(uint8_t *packet, const union ends *source, const union ends *to,
                        size_t length)
{
    if (source->any.sa_family == AF_INET6) {
        struct ip6_hdr header = {
            .ip6_src = source->v6.sin6_addr,
            .ip6_dst = to->v6.sin6_addr,
        };

        header.ip6_flow = htonl(6u << 28);
        header.ip6_plen = htons(length);
        header.ip6_nxt = IPPROTO_TCP;
        header.ip6_hlim = TTL;
        memcpy(packet, &header, sizeof header);
        return sizeof header;
    }
    struct iphdr header = {         /* the kernel computes its length and its checksum: raw(7) */
        .version = 4,
        .ihl = 5,
        .ttl = TTL,
        .protocol = IPPROTO_TCP,
        .saddr = source->v4.sin_addr.s_addr,
        .daddr = to->v4.sin_addr.s_addr,
    };

    memcpy(packet, &header, sizeof header);
    return sizeof header;
}

static bool send_raw(const union ends *source, const union ends *to, uint8_t *segment,
                     size_t length)
{
    uint8_t packet[sizeof(struct ip6_hdr) + HEADER * 3];
    union ends where = *to;
    int family = source->any.sa_family, on = 1, number;
    size_t header = ip_header(packet, source, to, length);
    uint16_t check = htons(checksum(source, to, segment, length));
    int raw = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    bool sent;

    memcpy(segment + 16, &check, sizeof check);
    memcpy(packet + header, segment, length);
    where.v4.sin_port = 0;          /* where IPv6 has it, too */
    sent = raw >= 0 &&
           (family == AF_INET ||
            setsockopt(raw, IPPROTO_IPV6, IPV6_HDRINCL, &on, sizeof on) == 0) &&
           sendto(raw, packet, header + length, 0, &where.any,
                  family == AF_INET6 ? sizeof where.v6 : sizeof where.v4) >= 0;
    number = errno;
    if (raw >= 0)
        close(raw);
    errno = number;
    return sent;
}

struct segment {
    uint8_t bytes[HEADER * 3];
    size_t length;
};

static void put(struct segment *segment, uint32_t value, int bytes)
{
    while (bytes-- > 0)
        segment->bytes[segment->length++] = value >> 8 * bytes;
}

static struct segment begin(const union ends *source, const union ends *to, uint32_t seq,
                            uint32_t ack)
{
    struct segment segment = {.length = 0};

    put(&segment, ntohs(source->v4.sin_port), 2);
    put(&segment, ntohs(to->v4.sin_port), 2);
    put(&segment, seq, 4);
    put(&segment, ack, 4);
    return segment;
}

/* What the client may not have heard. */
static bool repeat_syn_ack(const struct flow *flow)
{
    struct segment segment = begin(&flow->local, &flow->peer, flow->iss, flow->rcv_nxt);
    uint32_t window = flow->rcv_wnd < 0xffff ? flow->rcv_wnd : 0xffff;

    put(&segment, SYN | ACK, 2);
    put(&segment, window, 2);
    put(&segment, 0, 4);
    put(&segment, OPTION_MSS << 8 | 4, 2);
    put(&segment, flow->family == AF_INET6 ? 1440 : 1460, 2);
    if (scales(flow))           /* though by 0, or the client would scale no more either */
        put(&segment, 1u << 24 | OPTION_WINDOW_SCALE << 16 | 3 << 8 | flow->rcv_wscale, 4);
    if (flow->sack)
        put(&segment, 1u << 24 | 1 << 16 | OPTION_SACK << 8 | 2, 4);
    if (flow->ts) {
        put(&segment, 1u << 24 | 1 << 16 | OPTION_TIMESTAMPS << 8 | 10, 4);
        put(&segment, flow->ts_val, 4);
        put(&segment, flow->ts_recent, 4);
    }
    segment.bytes[12] = segment.length / 4 << 4;
    return send_raw(&flow->local, &flow->peer, segment.bytes, segment.length);
}

static bool is_established(int here)
{
    struct tcp_info info;
    socklen_t length = sizeof info;

    return getsockopt(here, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
           info.tcpi_state == KERNEL_ESTABLISHED;
}

static bool repeat_fin(int here, const struct flow *flow)
{
    struct segment segment = begin(&flow->peer, &flow->local, expects(flow), flow->snd_nxt);

    put(&segment, FIN | ACK, 2);
    put(&segment, flow->snd_wnd >> flow->snd_wscale, 2);
    put(&segment, 0, 4);
    segment.bytes[12] = segment.length / 4 << 4;
    for (int tries = 0; is_established(here); tries++) {
        if (tries == FIN_TRIES) {
            errno = ETIMEDOUT;
            return false;
        }
        if (tries > 0)
            usleep(FIN_RETRY);
        if (!send_raw(&flow->peer, &flow->local, segment.bytes, segment.length))
            return false;
    }
    return true;
}

/* As long as Synjitsu has patience with who is half open. */
static bool keep_alive(int here)
{
    int on = 1;

    return setsockopt(here, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
           set_number(here, TCP_KEEPIDLE, 15) && set_number(here, TCP_KEEPINTVL, 5) &&
           set_number(here, TCP_KEEPCNT, 3);
}

int adopt(const struct flow *flow, const uint8_t *received)
{
    int here = socket(flow->family, SOCK_STREAM | SOCK_CLOEXEC, 0), number;

    if (here < 0)
        return -1;
    if (restore(here, flow, received) &&
        (flow->state != SYN_RECEIVED || (keep_alive(here) && repeat_syn_ack(flow))) &&
        (flow->state != CLOSE_WAIT || repeat_fin(here, flow)))
        return here;
    number = errno;
    close(here);                /* in repair mode that sends nothing */
    errno = number;
    return -1;
}
