"""The host's end of a guest's store: the true link, and a store of a few lines behind it."""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from jitsu.core.xenstore.link import Closed, Effect, Opened, Received, Send, StoreLink
from unikernel.packets import GUEST_MAC, PEER_MAC

STORE_LINK = b"\x88\xb5"
NEAREST_BRIDGE = bytes.fromhex("0180c200000e")
HEADER = struct.Struct("<4I")


class Type(IntEnum):
    DIRECTORY = 1
    READ = 2
    WATCH = 4
    WRITE = 11
    WATCH_EVENT = 15
    ERROR = 16


def message(kind: int, request: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, request, 0, len(payload)) + payload


def frame_to_guest(payload: bytes) -> bytes:
    return GUEST_MAC + PEER_MAC + STORE_LINK + payload


def is_link_frame(frame: bytes) -> bool:
    """Whether it is one; its addresses are as they should be."""
    if frame[12:14] != STORE_LINK:
        return False
    assert frame[:12] == NEAREST_BRIDGE + GUEST_MAC
    return True


@dataclass
class Store:
    """Values by path; what it was asked is kept for the test."""

    values: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[Type, str, bytes]] = field(default_factory=list)
    unread: bytearray = field(default_factory=bytearray)

    def input(self, data: bytes) -> bytes:
        """Take bytes from the guest; the replies to what is complete."""
        self.unread += data
        replies = b""
        while len(self.unread) >= HEADER.size:
            kind, request, transaction, length = HEADER.unpack_from(self.unread)
            assert transaction == 0
            end = HEADER.size + length
            if len(self.unread) < end:
                break
            payload = bytes(self.unread[HEADER.size : end])
            del self.unread[:end]
            replies += self.reply(Type(kind), request, payload)
        return replies

    def reply(self, kind: Type, request: int, payload: bytes) -> bytes:
        path, _, rest = payload.partition(b"\0")
        name = path.decode()
        self.asked.append((kind, name, rest))
        match kind:
            case Type.READ if name not in self.values:
                return message(Type.ERROR, request, b"ENOENT\0")
            case Type.READ:
                return message(kind, request, self.values[name])
            case Type.WRITE:
                self.values[name] = rest
                return message(kind, request, b"OK\0")
            case Type.WATCH:  # a watch fires once at once
                event = message(Type.WATCH_EVENT, 0, path + b"\0" + rest)
                return message(kind, request, b"OK\0") + event
            case _:
                return message(Type.ERROR, request, b"ENOSYS\0")


class HostEnd:
    """Frames in, frames out; times are seconds."""

    def __init__(self, values: dict[str, bytes] | None = None) -> None:
        self.link = StoreLink()
        self.values = values or {}
        self.store = Store(dict(self.values))
        self.happened: list[Opened | Closed] = []

    def input(self, frame: bytes, now: float) -> list[bytes]:
        return self.perform(self.link.handle(frame[14:], now), now)

    def tick(self, now: float) -> list[bytes]:
        return self.perform(self.link.tick(now), now)

    def send(self, data: bytes, now: float) -> list[bytes]:
        return self.perform(self.link.send(data, now), now)

    def perform(self, effects: list[Effect], now: float) -> list[bytes]:
        frames = []
        for effect in effects:
            match effect:
                case Send(payload):
                    frames.append(frame_to_guest(payload))
                case Received(data):
                    frames += self.send(self.store.input(data), now)
                case Opened() | Closed():
                    self.store.unread.clear()
                    self.happened.append(effect)
        return frames
