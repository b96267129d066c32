"""What an image is, by its bytes."""

import itertools
import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.elf import OTHER_NOTE, bzimage, elf32, elf64, xen_note
from jitsu.config.image import ImageError, ImageKind, image_kind, image_terms
from jitsu.model import Terms

_NUMBERS = itertools.count()


def written(folder: Path, data: bytes) -> Path:
    # What is known of an image is kept by its name and time, so each gets a name of its own.
    path = folder / f"image{next(_NUMBERS)}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (elf64(), ImageKind.PVH),
        (elf32(), ImageKind.PVH),
        (elf64(OTHER_NOTE + xen_note()), ImageKind.PVH),
        (elf64(xen_note(6, data=b"linux") + xen_note()), ImageKind.PVH),
        (bzimage(), ImageKind.LINUX),
    ],
    ids=["elf64", "elf32", "second note", "after an unaligned note", "bzImage"],
)
def test_what_boots(tmp_path: Path, data: bytes, kind: ImageKind) -> None:
    assert image_kind(written(tmp_path, data)) is kind


def with_header(offset: int, layout: str, value: int) -> bytes:
    data = bytearray(elf64())
    struct.pack_into(layout, data, offset, value)
    return bytes(data)


NO_NOTE = "is ELF but has no PVH entry note (Xen note, type 18)"
DAMAGED = "is a damaged ELF file"
NEITHER = "is neither an ELF file nor a Linux bzImage"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", NEITHER),
        (b"#!/bin/sh\necho hello\n", NEITHER),
        (b"\x7fEL", NEITHER),
        (bzimage()[:0x205], NEITHER),
        (b"\x7fELF", DAMAGED),
        (elf64()[:63], DAMAGED),
        (elf64()[: 64 + 56 + 20], DAMAGED),
        (elf32()[:50], DAMAGED),
        (with_header(32, "<Q", 2**64 - 1), DAMAGED),
        (with_header(32, "<Q", 2**63 - 4), DAMAGED),
        (elf64(b""), NO_NOTE),
        (elf64(OTHER_NOTE), NO_NOTE),
        (elf64(xen_note(kind=17)), NO_NOTE),
        (elf64(xen_note(name=b"Zen\0")), NO_NOTE),
        (elf64(xen_note()[:10]), NO_NOTE),
        (with_header(56, "<H", 0), NO_NOTE),
    ],
)
def test_what_does_not(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        image_kind(written(tmp_path, data))
    assert str(caught.value) == said


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file or directory"):
        image_kind(tmp_path / "nowhere")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """It is not opened: nobody might ever write to the FIFO."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ImageError) as caught:
            image_kind(path)
        assert str(caught.value) == "is no regular file"


def test_an_image_that_changes_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path, elf64())
    assert image_kind(path) is ImageKind.PVH
    path.write_bytes(bzimage())
    assert image_kind(path) is ImageKind.LINUX


def jitsu_note(*words: int) -> bytes:
    return struct.pack(f"<3I8s{len(words)}I", 6, 4 * len(words), 1, b"Jitsu", *words)


@pytest.mark.parametrize(
    ("data", "terms"),
    [
        (bzimage(), None),
        (elf64(), None),
        (elf64(xen_note() + jitsu_note(1, 1, 8192, 256, 0, 0)), Terms(256, 8192, window_scale=0)),
        (elf64(jitsu_note(1, 0, 1, 1, 0, 0) + xen_note()), Terms(1, 1)),
        (
            elf32(xen_note() + jitsu_note(1, 7, 1 << 31, 1 << 31, 14, 9)),
            Terms(1024, 64 << 10, window_scale=14, sack=True, timestamps=True),
        ),
    ],
)
def test_on_which_terms_it_imports(tmp_path: Path, data: bytes, terms: Terms | None) -> None:
    assert image_terms(written(tmp_path, data)) == terms


@pytest.mark.parametrize(
    "words",
    [
        (),
        (1,),
        (0, 0, 1, 1, 0, 0),
        (2, 0, 1, 1, 0, 0),
        (1, 0, 0, 1, 0, 0),
        (1, 0, 1, 0, 0, 0),
        (1, 1, 1, 1, 15, 0),
    ],
)
def test_a_note_that_makes_no_sense(tmp_path: Path, words: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="Jitsu note"):
        image_terms(written(tmp_path, elf64(xen_note() + jitsu_note(*words))))


@given(data=st.binary(max_size=400) | st.binary(max_size=300).map(b"\x7fELF\x02".__add__))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with suppress(ImageError):
        image_kind(written(tmp_path_factory.getbasetemp(), data))


@given(
    whole=st.sampled_from([elf64(), elf32(), bzimage()]),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8))),
    length=st.integers(0, 2**10),
)
def test_any_damage(
    tmp_path_factory: pytest.TempPathFactory,
    whole: bytes,
    changes: list[tuple[int, bytes]],
    length: int,
) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(whole) : at % len(whole) + len(value)] = value
    with suppress(ImageError):
        image_kind(written(tmp_path_factory.getbasetemp(), bytes(data[:length])))
