"""What a launcher is told, word by word."""

from dataclasses import replace
from ipaddress import IPv4Address
from signal import SIGKILL, SIGTERM

import pytest

from jitsu.backends.base import Exit
from jitsu.backends.process import exit_of, order
from jitsu.guest.order import Order, decode
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
PROGRAM = ["/srv/my server", "--motto", "just in time", "-v"]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (WWW, Order(PROGRAM, [80, 443], handoff="www/7", user="nobody")),
        (replace(WWW, listen=()), Order(PROGRAM, [], handoff="www/7", user="nobody")),
        (
            replace(WWW, handoff=Handoff.SPLICE, listen=(8,)),
            Order(PROGRAM, [8], handoff="", user="nobody"),
        ),
        (
            replace(WWW, handoff=Handoff.REPLAY, ready=ReadyOnTcp(80), listen=(80, 9)),
            Order(PROGRAM, [80, 9], probed=80, handoff="", user="nobody"),
        ),
    ],
)
def test_the_order(service: Service, expected: Order) -> None:
    told = order(service, Epoch(7), "nobody")
    assert told == expected
    assert decode(told.encode()) == expected


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
