"""Scripted conversations with the guest: say this, expect that, at this time."""

import json
from typing import Any

from unikernel.guest import NEVER, SECOND, Guest
from unikernel.packets import PEER_IP, Address, Segment

MSS_1460 = bytes.fromhex("020405b4")
GET = b"GET / HTTP/1.1\r\nHost: www\r\n\r\n"


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: www", *fields, "", ""]).encode()


class World:
    """A guest on a link without loss, the time there, and who talks to it unless told otherwise."""

    def __init__(self, guest: Guest, peer: Address = PEER_IP, now: int = 0) -> None:
        self.guest = guest
        self.peer = peer
        self.now = now
        self.frames: list[bytes] = []
        self.run()

    def run(self) -> None:
        self.frames += self.guest.run(self.now)

    def give(self, *frames: bytes) -> None:
        for frame in frames:
            self.guest.give(frame)
        self.run()

    def answers(self, *frames: bytes) -> list[bytes]:
        """What the guest sends at once in answer to these."""
        self.frames.clear()
        self.give(*frames)
        answers, self.frames = self.frames, []
        return answers

    def advance(self, seconds: float) -> None:
        """Let time pass; every deadline of the guest is met."""
        end = self.now + round(seconds * SECOND)
        while self.guest.deadline <= end:
            self.now = max(self.now, self.guest.deadline)
            self.run()
        self.now = end
        self.run()

    def next_deadline(self) -> float:
        """Jump to the guest's next deadline; how many seconds that was ahead."""
        assert self.guest.deadline != NEVER
        ahead = self.guest.deadline - self.now
        self.now = self.guest.deadline
        self.run()
        return ahead / SECOND


class Peer:
    """One end of a connection; keeps its own numbers so that scripts need not."""

    def __init__(
        self,
        world: World,
        port: int = 40000,
        address: Address | None = None,
        guest: Address | None = None,
    ) -> None:
        self.world = world
        self.port = port
        self.address = address or world.peer
        self.guest = guest
        self.seq = 1000 * port
        self.ack = 0
        self.window = 65535

    def send(
        self,
        flags: str,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        options: bytes = b"",
    ) -> None:
        """Send a segment; without `seq` it is the next one and counts."""
        segment = Segment(
            flags,
            self.seq if seq is None else seq,
            (self.ack if ack is None else ack) if "A" in flags else 0,
            data,
            self.window,
            options,
            self.port,
            peer=self.address,
            guest=self.guest,
        )
        if seq is None:
            self.seq += segment.length
        self.world.give(segment.frame())

    def segments(self) -> list[Segment]:
        """Take what has come for this connection."""
        mine, rest = [], []
        for frame in self.world.frames:
            segment = Segment.parse(frame)
            if segment and (segment.port, segment.peer) == (self.port, self.address):
                mine.append(segment)
            else:
                rest.append(frame)
        self.world.frames = rest
        return mine

    def expect(self, flags: str, data: bytes | None = None) -> Segment:
        """Exactly one segment has come, with these flags; it is what comes next."""
        segments = self.segments()
        assert [s.flags for s in segments] == [flags], segments
        segment = segments[0]
        if data is not None:
            assert segment.data == data
        if "S" not in flags and "R" not in flags:
            assert segment.ack == self.seq % 2**32
        self.ack = (segment.seq + segment.length) % 2**32
        return segment

    def expect_reset(self) -> None:
        assert [segment.flags for segment in self.segments()] == ["R"]

    def expect_ack_only(self) -> int:
        """A bare ACK; what it acknowledges."""
        [segment] = self.segments()
        assert (segment.flags, segment.data) == ("A", b"")
        return segment.ack

    def silence(self) -> None:
        assert self.segments() == []

    def open(self, options: bytes = MSS_1460) -> "Peer":
        self.send("S", options=options)
        self.expect("SA")
        self.send("A")
        self.silence()
        return self

    def read(self) -> bytes:
        """All that has come in order, acknowledged."""
        received = b""
        while segments := self.segments():
            for segment in segments:
                assert segment.seq == self.ack
                received += segment.data
                self.ack = (segment.seq + segment.length) % 2**32
            self.send("A")
        return received


def stats(world: World) -> dict[str, Any]:
    """What /stats says, by a connection of IPv4 that leaves nothing behind."""
    peer = Peer(world, 29999, PEER_IP).open()
    peer.send("PA", get("/stats"))
    answer: dict[str, Any] = json.loads(peer.read().partition(b"\r\n\r\n")[2])
    peer.send("R")
    return answer
