"""Requests that are encoded already, to the kernel of this host."""

import os
import struct
from contextlib import closing

import pytest

from jitsu.errors import HostError
from jitsu.host import netlink
from jitsu.host.netns import new_namespace, within
from jitsu.host.rtnetlink import Requests, count

root = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_messages_are_counted() -> None:
    odd = struct.pack("=IHHII", 17, 1, 0, 0, 0) + bytes(4)
    assert [count(odd * n) for n in range(3)] == [0, 1, 2]


class TestRequests:
    """In namespaces of our own."""

    pytestmark = root

    def test_what_is_refused(self) -> None:
        namespace = new_namespace()
        try:
            with within(namespace), closing(Requests()) as requests:
                requests.send(b"")
                requests.send(netlink.up(1) + netlink.up(1))
                with pytest.raises(HostError, match="No such device"):
                    requests.send(netlink.up(1) + netlink.up(77))
        finally:
            os.close(namespace)
