"""Network interfaces that others make and remove: when they are there, and when no more.

The kernel tells it on rtnetlink's group of links (rtnetlink(7)), to a socket of the event loop.
"""

import asyncio
import socket
import struct

from jitsu.errors import HostError

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_IFLA_IFNAME = 3
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_CHUNK = 64 << 10


class Links:
    """Hears of every link of this network namespace."""

    def __init__(self) -> None:
        """Listen. Raises HostError."""
        self._there: dict[str, asyncio.Future[int]] = {}
        self._gone: dict[int, asyncio.Future[None]] = {}
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, _RTMGRP_LINK))
        except OSError as error:
            raise HostError(f"rtnetlink: {error.strerror}") from error
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    async def appeared(self, name: str) -> int:
        """Return the index of link `name` as soon as there is one."""
        waiter = self._there.get(name)
        if waiter is None:
            waiter = self._there[name] = asyncio.get_running_loop().create_future()
            self._look()
        try:
            return await asyncio.shield(waiter)
        finally:
            self._there.pop(name, None)

    async def vanished(self, index: int) -> None:
        """Return when link `index` is no more."""
        waiter = self._gone.get(index)
        if waiter is None:
            waiter = self._gone[index] = asyncio.get_running_loop().create_future()
            self._look()
        try:
            await asyncio.shield(waiter)
        finally:
            self._gone.pop(index, None)

    def _look(self) -> None:
        """See for ourselves: what has happened before we asked is told to nobody.

        To ask for a link by its name would have the kernel look for a module of that name first.
        """
        there = dict(socket.if_nameindex())
        for index, name in there.items():
            self._appear(name, index)
        for index in self._gone.keys() - there.keys():
            self._vanish(index)

    def _readable(self) -> None:
        while True:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the kernel had more to tell than there was room for
                self._look()
                return
            if not self._there and not self._gone:
                continue  # who waits later looks first
            for kind, index, name in links(data):
                if kind == _RTM_DELLINK:
                    self._vanish(index)
                else:
                    self._appear(name, index)

    def _appear(self, name: str, index: int) -> None:
        if (waiter := self._there.get(name)) is not None and not waiter.done():
            waiter.set_result(index)

    def _vanish(self, index: int) -> None:
        if (waiter := self._gone.get(index)) is not None and not waiter.done():
            waiter.set_result(None)


def links(data: bytes) -> list[tuple[int, int, str]]:
    """Return of what rtnetlink has told which links are there, or no more: kind, index, name."""
    found, at = [], 0
    while at + _HEADER.size + _IFINFO.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            family, _, index, _, _ = _IFINFO.unpack_from(data, at + _HEADER.size)
            attributes = data[at + _HEADER.size + _IFINFO.size : at + length]
            if family != socket.AF_BRIDGE:  # which tells of ports: one that leaves is still there
                found.append((kind, index, _name(attributes)))
        at += max(length + 3 & ~3, _HEADER.size)
    return found


def _name(attributes: bytes) -> str:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _IFLA_IFNAME:
            return attributes[at + _ATTRIBUTE.size : at + length].rstrip(b"\0").decode()
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return ""
