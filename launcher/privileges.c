/* Who we are, and what we may see. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* In the file alone: libraries that know of others (nsswitch.conf(5)) are not for us to load. */
struct user find_user(const char *name)
{
    struct passwd *entry = NULL;
    FILE *file;

    if (!*name)
        return (struct user){.name = name};
    file = fopen("/etc/passwd", "re");
    if (!file)
        fail("/etc/passwd");
    while ((entry = fgetpwent(file)) && strcmp(entry->pw_name, name) != 0)
        ;
    fclose(file);
    if (!entry)
        fail_with(0, "there is no user %s", name);
    return (struct user){name, entry->pw_uid, entry->pw_gid};
}

void become_user(const struct user *user)
{
    if (!*user->name)
        return;
    if (setgroups(0, NULL) || setresgid(user->gid, user->gid, user->gid) ||
        setresuid(user->uid, user->uid, user->uid) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("cannot become %s", user->name);
}

int see_nobody_else(void)
{
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        return errno;
    return 0;
}

void raise_limit(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files))
        return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}
