"""Whatever the link does, every byte arrives once and in order, in bounded time."""

import ctypes
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unikernel.guest import BOTH, MIB, Guest
from unikernel.lossy import MS, Client, Weather, simulate
from unikernel.packets import PEER_IP, PEER_IP6, Address
from unikernel.talk import get

PATTERN = bytes(range(251))


def pattern(size: int) -> bytes:
    return (PATTERN * (size // 251 + 1))[:size]


def bytes_client(port: int, size: int, *, close: bool = True, address: Address = PEER_IP) -> Client:
    request = get(f"/bytes/{size}", *(["Connection: close"] if close else []))
    return Client(port, request, close_after=10**9 if close else size + 1, address=address)


def body(client: Client) -> bytes:
    return bytes(client.received).partition(b"\r\n\r\n")[2]


def test_fair_weather_is_quick(start: Callable[..., Guest]) -> None:
    client = bytes_client(40000, 100_000)
    assert simulate(start(), [client], Weather(), 1) < 0.1
    assert body(client) == pattern(100_000)
    assert not client.reset


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    duplicate=st.floats(0, 0.3),
    jitter=st.integers(0, 30),
    close=st.booleans(),
    address=st.sampled_from([PEER_IP, PEER_IP6]),
)
def test_any_weather(
    library: ctypes.CDLL,
    seed: int,
    loss: float,
    duplicate: float,
    jitter: int,
    close: bool,
    address: Address,
) -> None:
    guest = Guest(library, BOTH, seed)
    client = bytes_client(40000, 100_000, close=close, address=address)
    try:
        simulate(guest, [client], Weather(loss, duplicate, jitter * MS), seed)
        assert body(client) == pattern(100_000)
        assert not client.reset
    finally:
        guest.close()


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_sixty_four_at_once(start: Callable[..., Guest], loss: float) -> None:
    clients = [
        bytes_client(40000 + i, 20_000 + i, address=(PEER_IP, PEER_IP6)[i % 2]) for i in range(64)
    ]
    simulate(start(BOTH), clients, Weather(loss=loss, jitter=3 * MS), 7)
    for i, client in enumerate(clients):
        assert body(client) == pattern(20_000 + i)
        assert not client.reset


def test_five_hundred_at_once(start: Callable[..., Guest]) -> None:
    clients = [bytes_client(40000 + i, 2000 + i) for i in range(500)]
    assert simulate(start(heap=14 * MIB), clients, Weather(jitter=3 * MS), 7) < 1
    for i, client in enumerate(clients):
        assert body(client) == pattern(2000 + i)
        assert not client.reset


@pytest.mark.parametrize("address", [PEER_IP, PEER_IP6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("seed", range(5))
def test_an_upload_in_bad_weather(start: Callable[..., Guest], seed: int, address: Address) -> None:
    data = pattern(60_000)
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    head = f"POST /hash HTTP/1.1\r\nHost: www\r\nConnection: close\r\nContent-Length: {len(data)}"
    request = head.encode() + b"\r\n\r\n" + data
    client = Client(40000, request, close_after=10**9, address=address)
    simulate(start(BOTH), [client], Weather(0.15, 0.1, 10 * MS), seed)
    assert body(client) == f'{{"length":60000,"fnv1a64":"{value:016x}"}}\n'.encode()
