"""What a launcher is told, word by word."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address
from signal import SIGKILL, SIGTERM

import pytest

from jitsu.backends.base import Exit
from jitsu.backends.process import exit_of, order
from jitsu.guest.order import Order
from jitsu.host.cpu import USABLE
from jitsu.model import Epoch, Handoff, Mac, Name, ReadyOnTcp, Service

WWW = Service(
    name=Name("www"),
    dns=(),
    image="/srv/my server",
    address=IPv4Address("10.77.0.10"),
    mac=Mac(bytes(6)),
    backend="process",
    cmdline="--motto 'just in time' -v",
    handoff=Handoff.IMPORT,
    listen=(80, 443),
)
PROGRAM = ("/srv/my server", "--motto", "just in time", "-v")
IMPORTED = Order(PROGRAM, (80, 443), service="www", epoch="7")
HELLO = bytes.fromhex(
    "ffffffffffff 000000000000 08060001 0800 06 04 0001 000000000000 0a4d000a 000000000000 0a4d000a"
)
ANNOUNCED = replace(IMPORTED, epoch="", announcement=HELLO)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (WWW, IMPORTED),
        (replace(WWW, listen=()), replace(IMPORTED, listen=())),
        (replace(WWW, handoff=Handoff.SPLICE, listen=(8,)), replace(ANNOUNCED, listen=(8,))),
        (
            replace(WWW, handoff=Handoff.REPLAY, ready=ReadyOnTcp(80), listen=(80, 9)),
            replace(ANNOUNCED, listen=(80, 9), probed=80),
        ),
    ],
)
def test_the_order(service: Service, expected: Order) -> None:
    told = order(service, Epoch(7), 5, (b"join", b""))
    assert told == replace(expected, cpus=USABLE, link=5, join=b"join")


def test_each_field_is_told_after_its_length() -> None:
    said = Order(
        ("/bin/sh", ""), (80, 443), 443, "eth0", "www", "7", b"frame", b"cpus", 5, b"join", b"set"
    )
    fields = [
        struct.pack("=HH", 80, 443),
        struct.pack("=H", 443),
        b"eth0\0",
        struct.pack("=I", 5),
        b"join",
        b"set",
        b"cpus",
        b"frame",
        b"www\0",
        b"7\0",
        b"/bin/sh\0",
        b"\0",
    ]
    assert said.encode() == b"".join(struct.pack("=I", len(each)) + each for each in fields)


@pytest.mark.parametrize(
    ("code", "asked", "exit_"),
    [
        (0, False, Exit("the program has ended", clean=True)),
        (-SIGTERM, True, Exit("the program has ended", clean=True)),
        (-SIGTERM, False, Exit("the program was killed by signal 15", clean=False)),
        (-SIGKILL, True, Exit("the program has ended", clean=True)),
        (-SIGKILL, False, Exit("the program was killed by signal 9", clean=False)),
        (3, True, Exit("the program exited with 3: no disk", clean=False)),
    ],
)
def test_how_it_went(code: int, asked: bool, exit_: Exit) -> None:
    assert exit_of(code, "no disk", asked=asked) == exit_
