/* SPDX-License-Identifier: ISC */
/*
 * Lets Debian's xenstored and oxenstored run where there is no Xen, to be measured.
 *
 * Loaded before their libraries (LD_PRELOAD), it stands in for what of Xen they ask for at their
 * start: event channels, the shared page of dom0, domains. No guest ever comes. The path of a
 * request on the Unix socket has nothing of this in it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096

/* Event channels: one that never has an event. */
struct evtchn {
	int fd;
};
static int next_port = 1;

struct evtchn *xenevtchn_open(void *logger, unsigned flags)
{
	struct evtchn *handle = malloc(sizeof(*handle));

	handle->fd = eventfd(0, EFD_CLOEXEC);
	return handle;
}
struct evtchn *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
	return xenevtchn_open(logger, flags);
}
int xenevtchn_close(struct evtchn *handle) { return 0; }
int xenevtchn_fd(struct evtchn *handle) { return handle->fd; }
int xenevtchn_notify(struct evtchn *handle, unsigned port) { return 0; }
int xenevtchn_bind_virq(struct evtchn *handle, unsigned virq) { return next_port++; }
int xenevtchn_bind_interdomain(struct evtchn *handle, int domid, unsigned port)
{
	return next_port++;
}
int xenevtchn_unbind(struct evtchn *handle, unsigned port) { return 0; }
int xenevtchn_unmask(struct evtchn *handle, unsigned port) { return 0; }
int xenevtchn_pending(struct evtchn *handle)
{
	errno = EAGAIN;
	return -1;
}

/* Grants and foreign pages: an empty page each. */
void *xengnttab_open(void *logger, unsigned flags) { return malloc(1); }
int xengnttab_close(void *handle) { return 0; }
int xengnttab_set_max_grants(void *handle, uint32_t count) { return 0; }
void *xengnttab_map_grant_ref(void *handle, uint32_t domid, uint32_t ref, int prot)
{
	return aligned_alloc(PAGE, PAGE);
}
int xengnttab_unmap(void *handle, void *start, uint32_t count) { return 0; }
void *xc_map_foreign_range(void *xch, uint32_t domid, int size, int prot, unsigned long mfn)
{
	return aligned_alloc(PAGE, PAGE);
}

/* The hypervisor knows no domain. */
void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags) { return malloc(64); }
int xc_interface_close(void *xch) { return 0; }
int xc_domain_getinfo(void *xch, uint32_t first, unsigned max, void *info) { return 0; }
int xc_domain_getinfolist(void *xch, uint32_t first, unsigned max, void *info) { return 0; }

/* oxenstored insists on more descriptors than an unprivileged user may have. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) { return 0; }

/* The files of the kernel's xenfs. */
static int stand_in(const char *path)
{
	int fd = -1;

	if (strcmp(path, "/proc/xen/xsd_port") == 0) {
		fd = memfd_create("xsd_port", MFD_CLOEXEC);
		if (write(fd, "1\n", 2) != 2)
			abort();
		lseek(fd, 0, SEEK_SET);
	} else if (strcmp(path, "/proc/xen/xsd_kva") == 0 ||
		   strcmp(path, "/dev/xen/xenbus_backend") == 0) {
		fd = memfd_create("xsd_kva", MFD_CLOEXEC);
		if (ftruncate(fd, PAGE) != 0)
			abort();
	}
	return fd;
}

static int open_at(int folder, const char *path, int flags, va_list rest)
{
	int fd = stand_in(path);

	return fd >= 0 ? fd : (int)syscall(SYS_openat, folder, path, flags, va_arg(rest, int));
}

#define OPEN(name, ...)                                          \
	int name(__VA_ARGS__, ...)                               \
	{                                                        \
		va_list rest;                                    \
		va_start(rest, flags);                           \
		int fd = open_at(FOLDER, path, flags, rest);     \
		va_end(rest);                                    \
		return fd;                                       \
	}
#define FOLDER AT_FDCWD
OPEN(open, const char *path, int flags)
OPEN(open64, const char *path, int flags)
#undef FOLDER
#define FOLDER folder
OPEN(openat, int folder, const char *path, int flags)

/*
 * oxenstored's folder has its path compiled in: $JITSU_BENCH_SOCKET moves the socket. It removes the
 * socket before it binds, which on a host with Xen would be the live store's.
 */
static const char *moved(const char *path)
{
	const char *instead = getenv("JITSU_BENCH_SOCKET");

	return instead && strstr(path, "xenstored/socket") ? instead : path;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_un *asked = (const void *)address;
	struct sockaddr_un own = { .sun_family = AF_UNIX };

	if (address->sa_family == AF_UNIX && moved(asked->sun_path) != asked->sun_path) {
		strncpy(own.sun_path, moved(asked->sun_path), sizeof(own.sun_path) - 1);
		address = (const void *)&own;
		length = sizeof(own);
	}
	return (int)syscall(SYS_bind, fd, address, length);
}

int unlink(const char *path)
{
	return (int)syscall(SYS_unlinkat, AT_FDCWD, moved(path), 0);
}

int chmod(const char *path, mode_t mode)
{
	return (int)syscall(SYS_fchmodat, AT_FDCWD, moved(path), mode);
}

/* What its folder would be made with, it has: its own. */
int mkdir(const char *path, mode_t mode) { return 0; }
