"""Requests that are encoded already, to the kernel of this host."""

import os
import socket
import struct
import threading
from contextlib import closing

import pytest

from jitsu.errors import HostError
from jitsu.host import netlink, veth
from jitsu.host.netns import new_namespace, within
from jitsu.rtnetlink import Requests, count, operstate

root = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_messages_are_counted() -> None:
    odd = struct.pack("=IHHII", 17, 1, 0, 0, 0) + bytes(4)
    assert [count(odd * n) for n in range(3)] == [0, 1, 2]


def test_a_link_that_says_nothing_of_its_state_is_not_up() -> None:
    link = struct.pack("=IHHII", 32, 16, 0, 0, 0) + bytes(16)
    assert operstate(link) == 0
    assert operstate(link + struct.pack("=HHBxxx", 5, 2, 9)) == 0
    assert operstate(link + struct.pack("=HHBxxxHHBxxx", 5, 2, 9, 5, 16, 6)) == 6
    with pytest.raises(HostError, match="No such device"):
        operstate(struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -19))


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
                with pytest.raises(HostError, match="No such device"):
                    requests.await_carrier(77)
        finally:
            os.close(namespace)

    def test_the_carrier_is_there_when_both_ends_are_up(self) -> None:
        outer = new_namespace()
        try:
            with within(outer):
                inner, peer = veth.make_veth("cable")
                index = socket.if_nametoindex("cable")
                with closing(Requests()) as ours:
                    ours.send(netlink.up(index))
                    waiting = threading.Thread(target=ours.await_carrier, args=(index,))
                    waiting.start()
                    with within(inner), closing(Requests()) as theirs:
                        assert waiting.is_alive()
                        theirs.send(netlink.up(peer))
                        theirs.await_carrier(peer)
                    waiting.join(10)
                    assert not waiting.is_alive()
                os.close(inner)
        finally:
            os.close(outer)
