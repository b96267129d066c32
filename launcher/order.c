/* The daemon's order: fields, each with its length before it. */
#include "launcher.h"

#include <errno.h>
#include <string.h>

struct rest {
    uint8_t *at, *end;
};

static _Noreturn void misunderstood(void)
{
    fail_with(EINVAL, "the daemon's order");
}

static struct bytes field(struct rest *rest)
{
    uint32_t length;
    struct bytes field;

    if (rest->end - rest->at < (ptrdiff_t)sizeof length)
        misunderstood();
    memcpy(&length, rest->at, sizeof length);
    rest->at += sizeof length;
    if (length > (size_t)(rest->end - rest->at))
        misunderstood();
    field = (struct bytes){rest->at, length};
    rest->at += length;
    return field;
}

static char *string(struct rest *rest)
{
    struct bytes bytes = field(rest);

    if (bytes.length == 0 || bytes.start[bytes.length - 1] != 0)
        misunderstood();
    return (char *)bytes.start;
}

static void copy(struct rest *rest, void *to, size_t length)
{
    struct bytes bytes = field(rest);

    if (bytes.length != length)
        misunderstood();
    memcpy(to, bytes.start, length);
}

static void ports(struct rest *rest, struct order *order)
{
    struct bytes bytes = field(rest);

    if (bytes.length > sizeof order->ports)
        misunderstood();
    memcpy(order->ports, bytes.start, bytes.length);
    order->ports_count = bytes.length / sizeof *order->ports;
}

void order_decode(struct order *order, uint8_t *data, size_t length)
{
    static char *words[WORDS_MAX + 1];
    struct rest rest = {data, data + length};
    size_t count = 0;

    ports(&rest, order);
    copy(&rest, &order->probed, sizeof order->probed);
    order->interface = string(&rest);
    copy(&rest, &order->link, sizeof order->link);
    order->join = field(&rest);
    order->settings = field(&rest);
    order->cpus = field(&rest);
    order->announcement = field(&rest);
    order->service = string(&rest);
    order->epoch = string(&rest);
    while (rest.at < rest.end) {
        if (count == WORDS_MAX)
            fail_with(E2BIG, "the program's command line");
        words[count++] = string(&rest);
    }
    if (count == 0)
        misunderstood();
    words[count] = NULL;
    order->program = words;
}
