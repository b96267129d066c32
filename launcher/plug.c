/* The network: requests that the daemon has encoded (jitsu.host.netlink), and what they bring. */
#include "launcher.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

enum {
    ANSWER_MAX = 64 << 10,
    UP = 6,                     /* IF_OPER_UP of RFC 2863 */
    LOOK_AGAIN = 200,           /* microseconds; it is late only where others are busy */
};

static union {
    struct nlmsghdr header;
    char bytes[ANSWER_MAX];
} answer;

int netlink_open(void)
{
    int here = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (here < 0)
        fail("rtnetlink");
    return here;
}

int index_of(const char *interface)
{
    int index = if_nametoindex(interface);

    if (index == 0)
        fail("%s", interface);
    return index;
}

/* The kernel has answered by the time that it has taken a request. Fails if it is refused. */
static void answered(int netlink)
{
    ssize_t length = recv(netlink, &answer, sizeof answer, 0);
    const struct nlmsgerr *refused = NLMSG_DATA(&answer.header);

    if (length < 0)
        fail("rtnetlink");
    if (!NLMSG_OK(&answer.header, length))
        fail_with(EBADMSG, "rtnetlink");
    if (answer.header.nlmsg_type != NLMSG_ERROR)
        return;
    if (NLMSG_PAYLOAD(&answer.header, 0) < sizeof *refused)
        fail_with(EBADMSG, "rtnetlink");
    if (refused->error)
        fail_with(-refused->error, "rtnetlink");
}

/* Fails if they are anything else. */
static size_t count(struct bytes messages)
{
    struct nlmsghdr header;
    size_t number = 0;

    for (size_t at = 0; at < messages.length; at += NLMSG_ALIGN(header.nlmsg_len), number++) {
        if (messages.length - at < sizeof header)
            fail_with(EINVAL, "the daemon's order");
        memcpy(&header, messages.start + at, sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > messages.length - at)
            fail_with(EINVAL, "the daemon's order");
    }
    return number;
}

/* Has the kernel do what the messages say, one after the other; they are sent together. */
static void request(int netlink, struct bytes messages)
{
    size_t answers = count(messages);

    if (answers == 0)
        return;
    if (send(netlink, messages.start, messages.length, 0) < 0)
        fail("rtnetlink");
    while (answers-- > 0)
        answered(netlink);
}

static bool forwards(int netlink, uint32_t index)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } question = {
        {.nlmsg_len = sizeof question, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
        {.ifi_index = index},
    };
    struct rtattr *attribute;
    int length;

    request(netlink, (struct bytes){(const uint8_t *)&question, sizeof question});
    length = IFLA_PAYLOAD(&answer.header);
    attribute = IFLA_RTA((struct ifinfomsg *)NLMSG_DATA(&answer.header));
    for (; RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length))
        if (attribute->rta_type == IFLA_OPERSTATE)
            return *(uint8_t *)RTA_DATA(attribute) == UP;
    return false;
}

/* That is some time after both ends are up: a worker of the kernel's notices it, or, since Linux
 * 6.8, whoever asks. */
static void await_carrier(int netlink, uint32_t index)
{
    while (!forwards(netlink, index))
        usleep(LOOK_AGAIN);
}

void plug(const struct order *order, int host)
{
    int ours = netlink_open();

    request(ours, order->settings);
    request(host, order->join);
    await_carrier(host, order->link);
    await_carrier(ours, index_of(order->interface));
    close(ours);
    close(host);
}

int announce(const struct order *order)
{
    int wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_ifindex = index_of(order->interface),
    };

    if (wire < 0 || sendto(wire, order->announcement.start, order->announcement.length, 0,
                           (struct sockaddr *)&to, sizeof to) < 0)
        fail("cannot say that we are here");
    return wire;
}
