/* A connection as a line of text: see jitsu.wire.tcb. */
#include "launcher.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_MAX = 1 << 30, SCALE_MAX = 14 };

static bool parse_address(struct flow *flow, union ends *end, const char *text)
{
    void *to = strchr(text, ':') ? (void *)&end->v6.sin6_addr : (void *)&end->v4.sin_addr;

    end->any.sa_family = strchr(text, ':') ? AF_INET6 : AF_INET;
    flow->family = end->any.sa_family;
    return inet_pton(flow->family, text, to) == 1;
}

static bool parse_state(struct flow *flow, const char *text)
{
    static const char *const states[] = {
        [SYN_RECEIVED] = "syn-received",
        [ESTABLISHED] = "established",
        [CLOSE_WAIT] = "close-wait",
    };

    for (int i = SYN_RECEIVED; i <= CLOSE_WAIT; i++)
        if (strcmp(text, states[i]) == 0) {
            flow->state = i;
            return true;
        }
    return false;
}

struct number {
    const char *key;
    uint32_t *value;
    uint32_t most;
    bool known;
};

/* Keys that nobody knows are skipped. */
static bool parse_number(struct number *number, const char *key, const char *text)
{
    unsigned long long value;
    char *end;

    while (number->key && strcmp(key, number->key) != 0)
        number++;
    if (!number->key)
        return true;
    value = strtoull(text, &end, 10);
    if (*end || end == text || *text == '-' || value > number->most)
        return false;
    *number->value = value;
    number->known = true;
    return true;
}

const char *flow_parse(struct flow *flow, char *line)
{
    uint32_t port = 0, peer_port = 0;
    struct number numbers[] = {
        {"port", &port, UINT16_MAX, false},
        {"peer_port", &peer_port, UINT16_MAX, false},
        {"iss", &flow->iss, UINT32_MAX, false},
        {"snd_nxt", &flow->snd_nxt, UINT32_MAX, false},
        {"snd_wnd", &flow->snd_wnd, BYTES_MAX, false},
        {"rcv_nxt", &flow->rcv_nxt, UINT32_MAX, false},
        {"rcv_wnd", &flow->rcv_wnd, BYTES_MAX, false},
        {"mss", &flow->mss, UINT16_MAX, false},
        {"snd_wscale", &flow->snd_wscale, SCALE_MAX, false},
        {"rcv_wscale", &flow->rcv_wscale, SCALE_MAX, false},
        {"sack", &flow->sack, 1, false},
        {"ts", &flow->ts, 1, false},
        {"ts_val", &flow->ts_val, UINT32_MAX, false},
        {"ts_recent", &flow->ts_recent, UINT32_MAX, false},
        {"rx", &flow->rx, BYTES_MAX, false},
        {NULL, NULL, 0, false},
    };
    char *next, *value;
    bool good, state_known = false;

    memset(flow, 0, sizeof *flow);
    for (char *key = strtok_r(line, " ", &next); key; key = strtok_r(NULL, " ", &next)) {
        value = strchr(key, '=');
        if (!value)
            return key;
        *value++ = 0;
        if (strcmp(key, "local") == 0)
            good = parse_address(flow, &flow->local, value);
        else if (strcmp(key, "peer") == 0)
            good = parse_address(flow, &flow->peer, value);
        else if (strcmp(key, "state") == 0)
            good = state_known = parse_state(flow, value);
        else
            good = parse_number(numbers, key, value);
        if (!good)
            return key;
    }
    for (const struct number *number = numbers; number->key; number++)
        if (!number->known)
            return number->key;
    if (!state_known)
        return "state";
    if (!port || !peer_port || flow->local.any.sa_family == AF_UNSPEC ||
        flow->local.any.sa_family != flow->peer.any.sa_family)
        return "ends";
    flow->local.v4.sin_port = htons(port);
    flow->peer.v4.sin_port = htons(peer_port);
    return NULL;
}
