/* SPDX-License-Identifier: ISC */
/*
 * The first and only program of a Linux guest that knows nothing of Jitsu: it loads the modules of
 * its network card, takes its addresses from the kernel's command line, and serves HTTP.
 *
 *	GET /<number>    100000 bytes that depend on the number: see content()
 *	POST /           how many bytes came, and their FNV-1a hash
 *
 * Where Jitsu's launcher lies beside it, it starts that, which listens, takes the connections over
 * that are open already, and becomes this program once more: as a server that finds its sockets as
 * services of systemd do, sd_listen_fds(3).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <net/route.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PORT = 80, BODY_BYTES = 100000, BACKLOG = 512, DEBUG_PORT = 0xe9, FIRST_PASSED = 3 };

static int has_console; /* that is, the port; a server has its standard error */

/* In the order in which they need each other. */
static const char *const modules[] = {
	"virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net",
};

static void say(const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	if (!has_console) {
		dprintf(STDERR_FILENO, "%s\n", text);
		return;
	}
	for (const char *at = text; *at; at++)
		outb(*at, DEBUG_PORT); /* there is no other console */
	outb('\n', DEBUG_PORT);
}

static void die(const char *what)
{
	say("linux guest: %s: %s", what, strerror(errno));
	for (;;)
		pause();
}

static void must(int result, const char *what)
{
	if (result < 0)
		die(what);
}

static void load_modules(void)
{
	for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
		char path[64];
		int file;

		snprintf(path, sizeof path, "/%s.ko", modules[i]);
		file = open(path, O_RDONLY);
		must(file, path);
		must(syscall(SYS_finit_module, file, "", 0), path);
		close(file);
	}
}

static void set(const char *path, const char *value)
{
	int file = open(path, O_WRONLY);

	if (file >= 0 && write(file, value, strlen(value)) < 0)
		say("linux guest: %s", path);
	close(file);
}

/* Return a copy of the value of `key=` on the command line, or NULL. */
static char *option(const char *key)
{
	static char line[4096];
	char *word, *rest = line;
	int file = open("/proc/cmdline", O_RDONLY);
	ssize_t size = read(file, line, sizeof line - 1);

	close(file);
	line[size < 0 ? 0 : size] = 0;
	while ((word = strsep(&rest, " \n")))
		if (!strncmp(word, key, strlen(key)) && word[strlen(key)] == '=')
			return word + strlen(key) + 1;
	return NULL;
}

static void set_address4(int fd, struct ifreq *request, unsigned long what, const char *text)
{
	struct sockaddr_in *address = (struct sockaddr_in *)&request->ifr_addr;

	address->sin_family = AF_INET;
	if (inet_pton(AF_INET, text, &address->sin_addr) != 1)
		die(text);
	must(ioctl(fd, what, request), text);
}

/* ip=<address>::<gateway>:<mask>:<name>::off */
static void configure4(int fd, struct ifreq *request)
{
	char *rest = option("ip"), *fields[4] = {0};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct sockaddr_in *gateway = (struct sockaddr_in *)&route.rt_gateway;

	for (int i = 0; i < 4 && rest; i++)
		fields[i] = strsep(&rest, ":");
	if (fields[3]) {
		set_address4(fd, request, SIOCSIFADDR, fields[0]);
		set_address4(fd, request, SIOCSIFNETMASK, fields[3]);
	}
	request->ifr_flags = IFF_UP | IFF_RUNNING;
	must(ioctl(fd, SIOCSIFFLAGS, request), "up");
	route.rt_dst.sa_family = route.rt_genmask.sa_family = gateway->sin_family = AF_INET;
	if (fields[3] && inet_pton(AF_INET, fields[2], &gateway->sin_addr) == 1)
		must(ioctl(fd, SIOCADDRT, &route), "route");
}

/* ip6=<address>/<bits> */
static void configure6(int index)
{
	char *bits = option("ip6"), *address = strsep(&bits, "/");
	struct in6_ifreq request = {.ifr6_ifindex = index};
	int fd;

	if (!bits)
		return;
	request.ifr6_prefixlen = atoi(bits);
	if (inet_pton(AF_INET6, address, &request.ifr6_addr) != 1)
		die(address);
	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	must(ioctl(fd, SIOCSIFADDR, &request), address);
	close(fd);
}

static void configure(void)
{
	struct ifreq request = {.ifr_name = "eth0"};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	must(ioctl(fd, SIOCGIFINDEX, &request), "eth0");
	int index = request.ifr_ifindex;
	set("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0"); /* its host knows that it is alone */
	set("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1");
	configure4(fd, &request);
	configure6(index);
	close(fd);
}

/* Fill `body` from a generator that every language has: a linear congruence of 32 bits. */
static void content(uint32_t number, char *body)
{
	for (int i = 0; i < BODY_BYTES; i++) {
		number = number * 1664525 + 1013904223;
		body[i] = number >> 24;
	}
}

static void send_all(int client, const char *data, size_t size)
{
	ssize_t sent;

	for (; size; data += sent, size -= sent)
		if ((sent = write(client, data, size)) <= 0)
			_exit(1);
}

static void reply(int client, const char *body, size_t size)
{
	char head[128];
	int length = snprintf(head, sizeof head,
			      "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", size);

	send_all(client, head, length);
	send_all(client, body, size);
}

static void count(int client, const char *data, size_t got, unsigned long long left)
{
	static char more[65536];
	char text[64];
	uint64_t hash = 0xcbf29ce484222325, total = left;

	for (;;) {
		for (size_t i = 0; i < got; i++)
			hash = (hash ^ (uint8_t)data[i]) * 0x100000001b3;
		left -= got;
		if (!left)
			break;
		ssize_t size = read(client, more, sizeof more);
		if (size <= 0)
			_exit(1);
		data = more, got = size;
	}
	reply(client, text, sprintf(text, "%llu %016llx", (unsigned long long)total, (unsigned long long)hash));
}

static void serve(int client)
{
	static char head[8192], body[BODY_BYTES];
	size_t size = 0;
	char *end = NULL, *length;

	while (!end && size < sizeof head - 1) {
		ssize_t got = read(client, head + size, sizeof head - 1 - size);
		if (got <= 0)
			return;
		size += got;
		head[size] = 0;
		end = strstr(head, "\r\n\r\n");
	}
	if (!end)
		return;
	length = strcasestr(head, "content-length:");
	if (!strncmp(head, "POST ", 5) && length && length < end) {
		count(client, end + 4, head + size - end - 4, strtoull(length + 15, NULL, 10));
		return;
	}
	content(strncmp(head, "GET /", 5) ? 0 : strtoul(head + 5, NULL, 10), body);
	reply(client, body, sizeof body);
}

static void serve_apart(int client)
{
	if (fork() == 0) {
		serve(client);
		_exit(0);
	}
	close(client);
}

static void accept_from(int listener)
{
	int client;

	signal(SIGCHLD, SIG_IGN);
	say("linux guest: serves");
	while ((client = accept(listener, NULL, NULL)) >= 0 || errno == EINTR)
		if (client >= 0)
			serve_apart(client);
	die("accept");
}

/* What is passed either accepts connections or is one. */
static void serve_passed(int count)
{
	int listener = -1, accepts;
	socklen_t size = sizeof accepts;

	signal(SIGCHLD, SIG_IGN);
	for (int passed = FIRST_PASSED; passed < FIRST_PASSED + count; passed++) {
		must(getsockopt(passed, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &size), "a socket that is passed");
		if (accepts)
			listener = passed;
		else
			serve_apart(passed);
	}
	accept_from(listener);
}

/* By which the launcher repeats the FIN of a client who sent it before there was a guest. */
static void bring_loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	must(ioctl(fd, SIOCSIFFLAGS, &request), "lo");
	close(fd);
}

/* Start the launcher, and have on the console what it and the server say. */
static void launch(void)
{
	static char *const words[] = {
		"/launcher", "--listen", "80", "--user", "nobody", "--", "/init", NULL,
	};
	int ends[2];
	char said;

	/* No tail loss probes (RFC 8985): on a busy host they tell of late clients, not of lost segments. */
	set("/proc/sys/net/ipv4/tcp_early_retrans", "0");
	bring_loopback_up();
	configure();
	must(pipe(ends), "pipe");
	if (fork() == 0) {
		must(dup2(ends[1], STDERR_FILENO), "standard error");
		close(ends[0]);
		close(ends[1]);
		execv(words[0], words);
		die(words[0]);
	}
	close(ends[1]);
	while (read(ends[0], &said, 1) == 1)
		outb(said, DEBUG_PORT);
	die("the server has ended");
}

int main(void)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	const char *passed = getenv("LISTEN_FDS");
	int listener;

	if (passed)
		serve_passed(atoi(passed));
	has_console = iopl(3) == 0;
	mount("proc", "/proc", "proc", 0, NULL);
	load_modules();
	if (access("/launcher", X_OK) == 0)
		launch();
	listener = socket(AF_INET6, SOCK_STREAM, 0);
	must(bind(listener, (struct sockaddr *)&any, sizeof any), "bind");
	must(listen(listener, BACKLOG), "listen");
	configure(); /* now: its first frame says that it can serve */
	accept_from(listener);
}
