/* What a server is before it is that server.
 *
 * It listens for it (sockets.c), takes over the connections that are open already, by the store
 * (store.c, handover.c, adopt.c), becomes whom it is to be, and executes it. So a server that knows
 * nothing of Jitsu, but finds its sockets as services of systemd do, goes on with clients who came
 * before it was there.
 *
 * By hand, or as the init of a virtual machine:
 *
 *     launcher [--listen PORT]... [--handoff SERVICE/EPOCH] [--user NAME] [--] SERVER [ARGUMENT]...
 *
 * For a program of `backend = "process"` the daemon starts one ahead of each boot. It waits as the
 * init of a process namespace, in a /proc of its own, for an order (jitsu.guest.order), whose
 * message brings the network namespace to join. Then it plugs the cable in, too (plug.c). A client
 * waits meanwhile, and every step is there because something slower was measured:
 *
 * - The process that has waited is the one that becomes the program: nobody need be woken.
 * - It has next to no memory. What executes something else waits until the kernel has taken down
 *   its memory, and what has slept finds nothing of itself in the processor's caches; of an
 *   interpreter both are a millisecond.
 * - It does not wait until its last word to the store has been heard, nor for its packet socket to
 *   be closed, for which the kernel takes 10 ms (packet_release). The daemon gets the socket, and
 *   the session, and sees both through (jitsu.host.heir).
 */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    ORDER_MAX = 128 << 10,
    STATUS_MAX = 4096,
    LABEL_MAX = 63,             /* of a service's name, */
    EPOCH_MAX = 20,             /* and the digits of its epoch */
    NICE = -10,                 /* as the daemon, lest others keep us from our order */
};

/* Who has started us, and what it gives its orders by. */
struct daemon {
    int orders;
    int pid;                    /* in /proc as we find it */
    int status;                 /* our own stat(5) there */
};

static void control_message(struct msghdr *message, void *control, size_t size)
{
    message->msg_control = control;
    message->msg_controllen = size;
}

/* Be killed when the daemon is; end now, if it has been. Whoever is killed leaves its children to
 * others, and only then hangs up. */
static void die_with(const struct daemon *daemon)
{
    char status[STATUS_MAX + 1];
    const char *after;
    ssize_t length;
    int parent;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        fail("cannot be killed with the daemon");
    length = pread(daemon->status, status, STATUS_MAX, 0);
    if (length < 0)
        fail("/proc/self/stat");
    status[length] = 0;
    after = strrchr(status, ')');  /* our name may hold anything */
    if (!after || sscanf(after + 1, " %*c %d", &parent) != 1 || parent != daemon->pid)
        _exit(0);
}

/* Wait for the order; there may be none for long. Return the network namespace. */
static int await_order(int orders, struct order *order)
{
    static uint8_t data[ORDER_MAX];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {data, sizeof data};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t length;
    int network;

    control_message(&message, &control, sizeof control);
    do
        length = recvmsg(orders, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length <= 0)
        _exit(0);               /* the daemon needs us no more */
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || !CMSG_FIRSTHDR(&message))
        fail_with(E2BIG, "the daemon's order");
    memcpy(&network, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof network);
    order_decode(order, data, length);
    return network;
}

/* If that fails the daemon has gone, and we go with it. */
static void leave_to_daemon(int orders, int wire)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof wire)];
    } control = {.header = {CMSG_LEN(sizeof wire), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec part = {&session, offsetof(struct session, data) + session.in_flight};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    memcpy(CMSG_DATA(&control.header), &wire, sizeof wire);
    control_message(&message, &control, sizeof control);
    sendmsg(orders, &message, MSG_NOSIGNAL);
    close(wire);
    close(orders);
}

static _Noreturn void execute(char **program, const struct user *user)
{
    signal(SIGPIPE, SIG_DFL);   /* which the daemon, in Python, ignores */
    execv(program[0], program);
    if (*user->name)
        fail("cannot execute %s as %s", program[0], user->name);
    fail("cannot execute %s", program[0]);
}

/* Do beforehand what can be done, and the rest when the daemon says so. */
static _Noreturn void obey(struct daemon *daemon, const struct user *user)
{
    static struct order order;
    int exposed, network, host, wire;

    daemon->status = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (daemon->status < 0)
        fail("/proc/self/stat");
    fcntl(daemon->orders, F_SETFD, FD_CLOEXEC);
    die_with(daemon);
    if (chdir("/"))
        fail("/");
    exposed = see_nobody_else();
    host = netlink_open();
    setpriority(PRIO_PROCESS, 0, NICE);
    network = await_order(daemon->orders, &order);
    if (exposed)                /* said now, for the service's own log */
        say("the host's processes can be seen: %s", strerror(exposed));
    if (setns(network, CLONE_NEWNET))
        fail("cannot join the network");
    close(network);
    listen_on(order.ports, order.ports_count, order.probed);
    plug(&order, host);         /* only now: who hears from us takes us to listen */
    if (*order.epoch) {
        wire = store_open(order.interface);
        take_over(order.service, order.epoch);
    } else {
        wire = announce(&order);
    }
    become_user(user);
    die_with(daemon);           /* which was forgotten with the privileges */
    leave_to_daemon(daemon->orders, wire);
    pass_sockets_on();
    if (order.cpus.length > 0)  /* for the order the daemon has moved us */
        sched_setaffinity(0, order.cpus.length, (const cpu_set_t *)order.cpus.start);
    setpriority(PRIO_PROCESS, 0, 0);
    execute(order.program, user);
}

/* -- By hand -- */

/* The kernel's command line has handoff=SERVICE/EPOCH, if the daemon has booted it. */
static char *word_of_kernel(void)
{
    static const char key[] = "handoff=";
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "re");
    char *next;

    if (!file)
        fail("/proc/cmdline");
    line[fread(line, 1, sizeof line - 1, file)] = 0;
    fclose(file);
    for (char *word = strtok_r(line, " \n", &next); word; word = strtok_r(NULL, " \n", &next))
        if (strncmp(word, key, sizeof key - 1) == 0)
            return word + sizeof key - 1;
    return line + sizeof line - 1;  /* which is empty */
}

static void parse_word(struct order *order, char *word)
{
    char *epoch = strchr(word, '/');

    order->service = order->epoch = "";
    if (!*word)
        return;
    if (!epoch || epoch == word || epoch - word > LABEL_MAX || !epoch[1] ||
        strlen(epoch + 1) > EPOCH_MAX || strspn(epoch + 1, "0123456789") != strlen(epoch + 1))
        fail_with(0, "%s is no service/epoch", word);
    *epoch = 0;
    order->service = word;
    order->epoch = epoch + 1;
}

static _Noreturn void become(const struct order *order, const struct user *user)
{
    static struct replies replies;

    if (!*order->program)
        fail_with(0, "no server is named");
    if (access(order->program[0], X_OK))
        fail("%s", order->program[0]);
    listen_on(order->ports, order->ports_count, order->probed);
    if (*order->epoch) {
        store_open(order->interface);
        take_over(order->service, order->epoch);
        store_settle(&replies);
        for (size_t i = 0; i < replies.count; i++)
            if (replies.of[i].failed)
                fail_with(EACCES, "the store refuses our last word");
        store_leave();
    }
    become_user(user);
    pass_sockets_on();
    execute(order->program, user);
}

static uint32_t number(const char *text, uint32_t most)
{
    unsigned long value;
    char *end;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || value > most)
        fail_with(0, "%s is no number up to %u", text, most);
    return value;
}

static _Noreturn void usage(int status)
{
    static const char text[] =
        "usage: launcher [OPTION]... [--] SERVER [ARGUMENT]...\n"
        "Listen, take over the connections that are open already, and become a server.\n"
        "\n"
        "  --listen PORT            listen there for it; may be given several times\n"
        "  --probed PORT            open that one last\n"
        "  --interface NAME         the link to the host; eth0\n"
        "  --handoff SERVICE/EPOCH  else from the kernel's command line\n"
        "  --user NAME              whom to become\n";

    fputs(text, status ? stderr : stdout);
    exit(status);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'},    {"probed", required_argument, NULL, 'p'},
        {"interface", required_argument, NULL, 'i'}, {"handoff", required_argument, NULL, 'h'},
        {"user", required_argument, NULL, 'u'},      {"order", required_argument, NULL, 'o'},
        {"daemon", required_argument, NULL, 'd'},    {"help", no_argument, NULL, 'H'},
        {NULL, 0, NULL, 0},
    };
    static struct order order = {.interface = "eth0"};
    struct daemon daemon = {.orders = -1};
    struct user user = {.name = ""};
    char *word = NULL;
    int option;

    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        switch (option) {
        case 'l':
            if (order.ports_count == PORTS_MAX)
                fail_with(E2BIG, "--listen");
            order.ports[order.ports_count++] = number(optarg, UINT16_MAX);
            break;
        case 'p':
            order.probed = number(optarg, UINT16_MAX);
            break;
        case 'i':
            order.interface = optarg;
            break;
        case 'h':
            word = optarg;
            break;
        case 'u':
            user = find_user(optarg);
            break;
        case 'o':
            daemon.orders = number(optarg, INT32_MAX);
            break;
        case 'd':
            daemon.pid = number(optarg, INT32_MAX);
            break;
        case 'H':
            usage(0);
        default:
            usage(2);
        }
    }
    raise_limit();
    if (daemon.orders >= 0)
        obey(&daemon, &user);
    parse_word(&order, word ? word : word_of_kernel());
    order.program = argv + optind;
    become(&order, &user);
}
