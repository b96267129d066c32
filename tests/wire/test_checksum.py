from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from jitsu.wire.checksum import checksum, is_valid, pseudo_header
from wire.strategies import addresses, addresses6, payloads, words16


def slow_checksum(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xFFFF),
        (bytes(8), 0xFFFF),
        (b"\xff\xff", 0),
        (b"\xff\xff\xff\xff", 0),
        (b"\x00\x01\xff\xfe", 0),
        (b"\x01", 0xFEFF),
        (bytes.fromhex("0001f203f4f5f6f7"), 0x220D),  # the example of RFC 1071 section 3
        (b"\xff" * 65535, 0x00FF),
    ],
)
def test_limits(data: bytes, expected: int) -> None:
    assert checksum(data) == slow_checksum(data) == expected


@given(payloads)
def test_sums_as_the_rfc_and_scapy_do(data: bytes) -> None:
    assert checksum(data) == checksum(memoryview(data)) == slow_checksum(data)
    assert checksum(data) == scapy_checksum(data)


@given(payloads.filter(lambda data: len(data) % 2 == 0))
def test_data_with_their_checksum_are_valid(data: bytes) -> None:
    whole = data + checksum(data).to_bytes(2, "big")
    assert is_valid(whole)
    assert is_valid(memoryview(whole))


@given(payloads, words16)
def test_is_valid_agrees_with_the_rfc(data: bytes, extra: int) -> None:
    assert is_valid(data) == (slow_checksum(data) == 0)
    assert is_valid(data, extra) == (slow_checksum(extra.to_bytes(2, "big") + data) == 0)


def test_zeros_are_not_valid() -> None:
    """Their sum is 0, and only the other zero, 0xffff, is right."""
    assert not is_valid(bytes(8))


@given(addresses, addresses, st.integers(0, 255), words16, payloads)
def test_pseudo_header(
    source: IPv4Address, destination: IPv4Address, protocol: int, length: int, data: bytes
) -> None:
    head = source.packed + destination.packed + bytes([0, protocol]) + length.to_bytes(2, "big")
    assert checksum(data, pseudo_header(source, destination, protocol, length)) == slow_checksum(
        head + data
    )


@given(addresses6, addresses6, st.integers(0, 255), st.integers(0, 2**32 - 1), payloads)
def test_pseudo_header_of_ipv6(
    source: IPv6Address, destination: IPv6Address, protocol: int, length: int, data: bytes
) -> None:
    tail = length.to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    assert checksum(data, pseudo_header(source, destination, protocol, length)) == slow_checksum(
        source.packed + destination.packed + tail + data
    )
