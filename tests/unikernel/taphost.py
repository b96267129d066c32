"""The host's end of a store link on a real tap."""

import os
import socket
from collections.abc import Callable
from time import monotonic

from jitsu.host.netns import TwoHosts
from unikernel.storehost import HostEnd, is_link_frame

ALL = 3
PATIENCE = 0.005


class TapHost:
    """Answers the guest's link while `serve` runs, and notes what else it sends."""

    def __init__(self, namespace: str, interface: str, values: dict[str, bytes]) -> None:
        self.host = HostEnd(values)
        self.frames: list[bytes] = []
        inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            with TwoHosts(inside, inside).at(inside):
                self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                self.socket.bind((interface, ALL))
        finally:
            os.close(inside)
        self.socket.settimeout(PATIENCE)

    def serve(self, done: Callable[[], bool], limit: float) -> None:
        """Serve until it is `done`, and everything is acknowledged."""
        end = monotonic() + limit
        while not done() or self.host.link.deadline() is not None:
            assert monotonic() < end, (self.host.link, self.host.store.asked, self.frames)
            try:
                frame, origin = self.socket.recvfrom(2048)
            except TimeoutError:
                frame, origin = b"", ("", 0, socket.PACKET_OUTGOING)
            if origin[2] != socket.PACKET_OUTGOING:
                self.frames.append(frame)
                if is_link_frame(frame):
                    self.answer(self.host.input(frame, monotonic()))
            self.answer(self.host.tick(monotonic()))

    def answer(self, frames: list[bytes]) -> None:
        for frame in frames:
            self.socket.send(frame)

    def close(self) -> None:
        self.socket.close()
