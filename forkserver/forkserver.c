/* A program that has been loaded, and is copied for each of its starts: a fork server.
 *
 * Half of what QEMU takes to start is the dynamic linker: fifty libraries, and a quarter of a
 * million relocations, each page of which the kernel has to copy. It is the same work each time.
 * So the program is executed once with this library before all others (LD_PRELOAD), whose
 * __libc_start_main() is what the program's first instructions call: everything is in its place,
 * and nothing of the program itself has run, not even its constructors. Here it waits. For each
 * message on its socket it makes a copy of itself (clone(2)), which goes on into the C library's
 * own __libc_start_main() with the command line that the message holds.
 *
 * The copy is a child of our parent, not of ours (CLONE_PARENT): who asks for it can wait for it,
 * as if it had executed the program itself. It has what the kernel would have given it:
 *
 * - Descriptors. We hold none but our socket, whose number is beyond theirs; so those that come
 *   with a message get the numbers 0, 1, 2... in the order in which they were sent.
 * - A command line that ps(1) shows. We were executed with a last argument as long as any; the
 *   new words are written over ours before the copy is made, that it may be known by them from its
 *   first instant, and ours are put back.
 * - A process group of its own, and an environment with nothing of ours.
 * - A thread id where the C library keeps it: the kernel writes it there (CLONE_CHILD_SETTID).
 *
 * - A value for the stack protector that no other copy has. (What guards the C library's own
 *   pointers is in use already, and stays the same.)
 *
 * What differs: /proc/PID/environ and the auxiliary vector are those that we were executed with.
 *
 * We answer with its process id, or a negative errno(3). We end when the socket is closed, and are
 * killed with whoever has started us: then what is in the socket is for nobody.
 *
 * There is no C library here, only what the kernel offers: the program's own is at a point where it
 * has not been told to start, and need not be of any version.
 */

typedef unsigned long word;

enum {
    CONTROL = 15,          /* our socket's number, agreed with jitsu.host.forkserver */
    DESCRIPTORS_MAX = 8,
    ARGUMENTS_MAX = 256,
    MESSAGE_MAX = 16384,
};
enum {
    WRITE = 1, CLOSE = 3, RECVMSG = 47, CLONE = 56, FCNTL = 72, SETPGID = 109, PRCTL = 157,
    EXIT_GROUP = 231, GETRANDOM = 318,
};
enum { PR_SET_PDEATHSIG = 1, PR_SET_MM = 35, PR_SET_MM_ARG_END = 9, PR_GET_TID_ADDRESS = 40 };
enum { SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_TRUNC = 0x20, MSG_CTRUNC = 8 };
enum {
    CLONE_PARENT = 0x8000,
    CLONE_CHILD_CLEARTID = 0x200000,
    CLONE_CHILD_SETTID = 0x1000000,
    SIGKILL = 9,
    SIGCHLD = 17,
};
enum { EINTR = 4, E2BIG = 7, F_GETFD = 1 };

struct iovec { void *base; word length; };
struct rights { word length; int level, type; int descriptors[DESCRIPTORS_MAX]; };
struct msghdr {
    void *name; unsigned name_length;
    struct iovec *iov; word iov_length;
    void *control; word control_length;
    int flags;
};

typedef int main_function(int, char **, char **);
typedef int start_function(main_function *, int, char **, void (*)(void), void (*)(void),
                           void (*)(void), void *);

extern char **environ;
extern void *dlsym(void *, const char *);

static char message[MESSAGE_MAX], ours[MESSAGE_MAX];
static char *arguments[ARGUMENTS_MAX + 1];
static char path[] = "PATH=/bin:/usr/bin"; /* os.defpath */
static char *environment[] = {path, 0};

static long
call(long number, word a, word b, word c, word d, word e)
{
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static void
copy(char *to, const char *from, word length)
{
    while (length--)
        *to++ = *from++;
}

/* Wait for a message; return its length, 0 when there are no more. */
static word
hear(int *descriptors)
{
    struct rights rights;
    struct iovec iov = {message, sizeof message};
    struct msghdr header = {.iov = &iov, .iov_length = 1,
                            .control = &rights, .control_length = sizeof rights};
    long length;

    do
        length = call(RECVMSG, CONTROL, (word)&header, 0, 0, 0);
    while (length == -EINTR);
    *descriptors = 0;
    if (header.control_length >= sizeof(word) + 2 * sizeof(int) &&
        rights.level == SOL_SOCKET && rights.type == SCM_RIGHTS)
        *descriptors = (int)((rights.length - sizeof(word) - 2 * sizeof(int)) / sizeof(int));
    if (length <= 0 || header.flags & (MSG_TRUNC | MSG_CTRUNC) || message[length - 1])
        return 0;
    return (word)length;
}

/* Have `arguments` point at where the words of a message will be; return how many there are. */
static int
split(char *title, const char *words, word length)
{
    int count = 0;

    for (word at = 0; at < length; at++) {
        if (count == ARGUMENTS_MAX)
            return 0;
        arguments[count++] = title + at;
        while (words[at])
            at++;
    }
    arguments[count] = 0;
    return count;
}

/* Have `title` say what `words` do, and nothing else. */
static void
rename(char *title, word room, const char *words, word length)
{
    copy(title, words, length);
    for (word i = length; i < room; i++)
        title[i] = 0;
}

/* Have the C library's stack protector check for something new (the TLS ABI of x86-64). */
static void
renew_guard(void)
{
    word guard;

    if (call(GETRANDOM, (word)&guard, sizeof guard, 0, 0, 0) == sizeof guard)
        __asm__ volatile("movq %0, %%fs:0x28" : : "r"(guard & ~0xffUL));
}

/* Answer messages; return in each copy, with the number of its words, and never in ourselves. */
static int
serve(char *title, word room, word *tid_address)
{
    for (;;) {
        int descriptors, count;
        word length = hear(&descriptors);
        long pid = -E2BIG;

        if (!length)
            call(EXIT_GROUP, 0, 0, 0, 0, 0);
        if (length <= room && (count = split(title, message, length)) > 0) {
            rename(title, room, message, length);
            pid = call(CLONE, CLONE_PARENT | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD,
                       0, 0, (word)tid_address, 0);
            if (pid == 0) {
                call(CLOSE, CONTROL, 0, 0, 0, 0);
                call(SETPGID, 0, 0, 0, 0, 0);
                /* Where we may not, it is shown with zeros behind. */
                call(PRCTL, PR_SET_MM, PR_SET_MM_ARG_END, (word)title + length, 0, 0);
                renew_guard();
                return count;
            }
            rename(title, room, ours, room);
        }
        for (int i = 0; i < descriptors; i++)
            call(CLOSE, (word)i, 0, 0, 0, 0);
        call(WRITE, CONTROL, (word)&pid, sizeof(int), 0, 0);
    }
}

int __libc_start_main(main_function *, int, char **, void (*)(void), void (*)(void),
                      void (*)(void), void *);

int
__libc_start_main(main_function *main, int argc, char **argv, void (*init)(void),
                  void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    start_function *start = (start_function *)dlsym((void *)-1L, "__libc_start_main");
    char *end = argv[argc - 1];
    word room, *tid_address;

    while (*end++)
        ;
    room = (word)(end - argv[0]);
    /* The kernel tells where the thread's id is if it has CONFIG_CHECKPOINT_RESTORE. */
    if (room > sizeof ours || call(PRCTL, PR_GET_TID_ADDRESS, (word)&tid_address, 0, 0, 0) != 0)
        return start(main, argc, argv, init, fini, rtld_fini, stack_end);
    copy(ours, argv[0], room);
    for (word i = 0; i < 3; i++)
        call(CLOSE, i, 0, 0, 0, 0);
    for (word i = 0; i < DESCRIPTORS_MAX; i++)
        if (call(FCNTL, i, F_GETFD, 0, 0, 0) >= 0) /* some library's: no room for theirs */
            return start(main, argc, argv, init, fini, rtld_fini, stack_end);
    call(PRCTL, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    call(WRITE, CONTROL, (word) "", 1, 0, 0); /* that we are ready */
    argc = serve(argv[0], room, tid_address);
    environ = environment;
    return start(main, argc, arguments, init, fini, rtld_fini, stack_end);
}
