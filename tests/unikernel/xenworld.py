"""The guest with Xen's drivers, and both ends of its rings: a store, and a backend."""

import ctypes
import struct
from pathlib import Path

from unikernel.guest import CMDLINE, MIB, UNIKERNEL, Guest, load
from unikernel.storehost import Store, Type, message

LIBRARY = UNIKERNEL / "build" / "libjitsuxen.so"
RING = 1024
"""Bytes each way of the store's ring; behind both: req_cons, req_prod, rsp_cons, rsp_prod."""
BACKEND = "/local/domain/0/backend/vif/1/0"
DEVICE = {
    "device/vif/0/backend": BACKEND.encode(),
    "device/vif/0/backend-id": b"0",
    "device/vif/0/mac": b"02:00:00:00:00:10",
    f"{BACKEND}/state": b"2",
}
ENTRIES, HEADER = 256, 64
PAGE = 4096


def load_xen(path: Path) -> ctypes.CDLL:
    """Load the library and say what the last part of unikernel/platform/host/host.h says."""
    missing = {"host_give", "host_take"}
    library = load(path, missing)
    pointer = ctypes.c_void_p
    library.host_new_xen.restype = pointer
    library.host_new_xen.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_size_t]
    library.host_xen_ring.restype = pointer
    library.host_xen_ring.argtypes = []
    library.host_xen_page.restype = pointer
    library.host_xen_page.argtypes = [pointer, ctypes.c_uint32]
    return library


class Memory:
    """Bytes of the guest's that the host may touch."""

    def __init__(self, address: int, size: int) -> None:
        self.bytes = (ctypes.c_ubyte * size).from_address(address)

    def read(self, at: int, size: int) -> bytes:
        return bytes(self.bytes[at : at + size])

    def write(self, at: int, data: bytes) -> None:
        self.bytes[at : at + len(data)] = list(data)

    def word(self, at: int) -> int:
        return int.from_bytes(self.read(at, 4), "little")

    def set_word(self, at: int, value: int) -> None:
        self.write(at, (value % 2**32).to_bytes(4, "little"))


class StoreRing:
    """The host's end of the store's ring; what does not fit waits."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.waiting = b""

    def take(self, most: int) -> bytes:
        consumed, produced = self.memory.word(2 * RING), self.memory.word(2 * RING + 4)
        size = min(produced - consumed, most)
        data = bytes(self.memory.bytes[(consumed + i) % RING] for i in range(size))
        self.memory.set_word(2 * RING, consumed + size)
        return data

    def give(self, most: int) -> None:
        consumed, produced = self.memory.word(2 * RING + 8), self.memory.word(2 * RING + 12)
        data = self.waiting[: min(most, RING - (produced - consumed))]
        for i, byte in enumerate(data):
            self.memory.bytes[RING + (produced + i) % RING] = byte
        self.memory.set_word(2 * RING + 12, produced + len(data))
        self.waiting = self.waiting[len(data) :]


class XenGuest(Guest):
    """One at a time; it has no frames but those of its rings."""

    def __init__(
        self, library: ctypes.CDLL, cmdline: str = CMDLINE, seed: int = 1, heap: int = 8 * MIB
    ) -> None:
        self._library = library
        self._handle = library.host_new_xen(cmdline.encode(), seed, heap)
        self._buffer = ctypes.create_string_buffer(4096)
        self.ring = Memory(library.host_xen_ring(), 2 * RING + 16)

    def run(self, now: int) -> list[bytes]:
        self.deadline = self._library.host_run(self._handle, now)
        return []

    def page(self, reference: int) -> Memory:
        address = self._library.host_xen_page(self._handle, reference)
        assert address, f"{reference} is not granted"
        return Memory(address, PAGE)


class XenWorld:
    """A store that answers, and a backend that connects when the frontend says so."""

    def __init__(self, guest: XenGuest, values: dict[str, bytes] | None = None) -> None:
        self.guest = guest
        self.store = Store(DEVICE | (values or {}))
        self.ring = StoreRing(guest.ring)
        self.now = 0
        self.piece = RING
        self.connects, self.connected = True, False
        self.sent: list[bytes] = []  # by the guest
        self.tx_consumed = self.rx_produced = 0

    def fire(self, path: str, token: str) -> None:
        event = f"{path}\0{token}\0".encode()
        self.ring.waiting += message(Type.WATCH_EVENT, 0, event)

    def connect(self) -> None:
        self.connected = True
        self.store.values[f"{BACKEND}/state"] = b"4"
        self.fire(f"{BACKEND}/state", "state")

    def turn(self) -> bool:
        """Let the guest run, and answer; false if nothing moved."""
        self.guest.run(self.now)
        asked = self.ring.take(self.piece)
        self.ring.waiting += self.store.input(asked)
        if (
            self.connects
            and not self.connected
            and self.store.values.get("device/vif/0/state") == b"4"
        ):
            self.connect()
        moved = bool(asked or self.ring.waiting)
        self.ring.give(self.piece)
        return self.take_frames() or moved

    def run(self, seconds: float = 0) -> None:
        """Until nothing moves any more, then for so long."""
        while self.turn():
            pass
        end = self.now + int(seconds * 1e9)
        while self.now < end:
            self.now = min(end, max(self.guest.deadline, self.now + 1000))
            while self.turn():
                pass

    def sent_answer(self, identifier: int) -> bytes:
        return struct.pack("<Hh", identifier, 0)

    def received_answer(self, identifier: int, size: int) -> bytes:
        return struct.pack("<HHHh", identifier, 0, 0, size)

    def granted(self, key: str) -> Memory:
        return self.guest.page(int(self.store.values[f"device/vif/0/{key}"]))

    def take_frames(self) -> bool:
        """What the guest has sent; each buffer is given back at once."""
        if not self.connected:
            return False
        ring = self.granted("tx-ring-ref")
        before = self.tx_consumed
        while self.tx_consumed != ring.word(0):
            slot = HEADER + self.tx_consumed % ENTRIES * 12
            gref, offset, flags, identifier, size = struct.unpack("<IHHHH", ring.read(slot, 12))
            assert flags == 0
            self.sent.append(self.guest.page(gref).read(offset, size))
            ring.write(slot, self.sent_answer(identifier))
            self.tx_consumed += 1
            ring.set_word(8, self.tx_consumed)
        return self.tx_consumed != before

    def give(self, frame: bytes) -> None:
        """Fill the next buffer that the guest has offered."""
        ring = self.granted("rx-ring-ref")
        assert self.rx_produced != ring.word(0), "no buffer is offered"
        slot = HEADER + self.rx_produced % ENTRIES * 8
        identifier, _, gref = struct.unpack("<HHI", ring.read(slot, 8))
        self.guest.page(gref).write(0, frame)
        ring.write(slot, self.received_answer(identifier, len(frame)))
        self.rx_produced += 1
        ring.set_word(8, self.rx_produced)
