"""The guest's ring of a console's page."""

import struct

import pytest

from jitsu.host.xen.console import take

OUT, SIZE, CONSUMED, PRODUCED = 1024, 2048, 3080, 3084


class Guest:
    """A guest that writes on its console."""

    def __init__(self, index: int = 0) -> None:
        self.page = bytearray(4096)
        struct.pack_into("<II", self.page, CONSUMED, index, index)

    def say(self, data: bytes) -> None:
        (index,) = struct.unpack_from("<I", self.page, PRODUCED)
        for byte in data:
            self.page[OUT + index % SIZE] = byte
            index = (index + 1) & 0xFFFFFFFF
        struct.pack_into("<I", self.page, PRODUCED, index)

    def heard(self) -> bytes:
        with memoryview(self.page) as page:
            return take(page)


@pytest.mark.parametrize("index", [0, 1, SIZE - 3, (1 << 32) - 2])
def test_what_is_said_is_heard_once(index: int) -> None:
    guest = Guest(index)
    assert guest.heard() == b""
    guest.say(b"hello\n")
    assert guest.heard() == b"hello\n"
    assert guest.heard() == b""
    guest.say(b"x" * SIZE)
    assert guest.heard() == b"x" * SIZE


def test_indices_that_make_no_sense_cost_the_guest_its_words_and_nobody_else_anything() -> None:
    guest = Guest()
    struct.pack_into("<I", guest.page, PRODUCED, SIZE + 1)
    assert guest.heard() == b""
    guest.say(b"again")
    assert guest.heard() == b"again"
