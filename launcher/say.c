/* What people are told. */
#include "launcher.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024 };

static void say_words(const char *format, va_list arguments, const char *reason)
{
    char words[LINE_MAX_BYTES];

    vsnprintf(words, sizeof words, format, arguments);
    dprintf(STDERR_FILENO, "jitsu: %s%s%s\n", words, *reason ? ": " : "", reason);
}

void say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say_words(format, arguments, "");
    va_end(arguments);
}

void fail(const char *format, ...)
{
    const char *reason = strerror(errno);
    va_list arguments;

    va_start(arguments, format);
    say_words(format, arguments, reason);
    _exit(1);
}

void fail_with(int error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say_words(format, arguments, error ? strerror(error) : "");
    _exit(1);
}
