"""A person's terminal, connected to dom0's."""

import os
import select
import socket
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

GREETING = """\
dom0 of a lab: real Xen in QEMU, gone when you leave (exit, or Ctrl-D).
The project is {tree}; try: xl info, xl list, xenstore-ls, jitsu check -c examples/xen.toml
A Linux guest: xl create examples/xen/linux.cfg, xl console linux (Ctrl-] leaves it)
"""
_CHUNK = 65536


def job(tree: str) -> str:
    """Return the job that is a shell on the lab's terminal."""
    # The terminal's own word: in the environment may be what a program with readline has set.
    try:
        columns, rows = os.get_terminal_size(0)
    except OSError:
        columns, rows = 80, 24
    greeting = GREETING.format(tree=tree).replace("\n", "\\r\\n").replace("'", "")
    return f"""cd "$JITSU_TREE"
export TERM={os.environ.get("TERM", "dumb")} PS1='dom0:\\w# '
exec 3<>/dev/hvc1  # whose size is forgotten when nobody has it open
stty rows {rows} columns {columns} <&3
printf '{greeting}' >/dev/hvc1
setsid --ctty --wait bash --norc -i </dev/hvc1 >/dev/hvc1 2>&1
echo "{{\\"exit\\": $?}}" >/dev/lab.report
"""


def relay(lab: socket.socket) -> None:
    """Pass on what is typed and what is printed, until the lab ends."""
    sources = [0, lab.fileno()]
    with _raw(0):
        while True:
            ready, _, _ = select.select(sources, [], [])
            if lab.fileno() in ready:
                data = lab.recv(_CHUNK)
                if not data:
                    return
                os.write(1, data)
            if 0 in ready:
                typed = os.read(0, _CHUNK)
                if typed:
                    lab.sendall(typed)
                else:  # the end of a file that is piped in
                    sources.remove(0)
                    lab.sendall(b"\x04")


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Have the terminal, if it is one, pass every key on, for as long as the context lasts."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
