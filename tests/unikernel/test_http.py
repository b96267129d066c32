"""The web server, request by request."""

import ctypes
import json
import random

import pytest

from unikernel.packets import GUEST_IP, Segment, arp, ping, udp
from unikernel.talk import GET, Peer, World, get

HOST = "Host: www\r\n"


def exchange(world: World, request: bytes, port: int = 40000) -> bytes:
    peer = Peer(world, port).open()
    for start in range(0, len(request), 1400):
        peer.send("PA", request[start : start + 1400])
    return peer.read()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def head_of(answer: bytes) -> dict[str, str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [
        ("/", "text/html; charset=utf-8", b"did not exist when you asked"),
        ("/index.html?x=1", "text/html; charset=utf-8", b"did not exist when you asked"),
        ("http://www/index.html", "text/html; charset=utf-8", b"did not exist"),
        ("http://www", "text/html; charset=utf-8", b"did not exist"),
        ("/style.css", "text/css; charset=utf-8", b"body"),
        ("/favicon.svg", "image/svg+xml", b"<svg"),
    ],
)
def test_site(world: World, path: str, content_type: str, text: bytes) -> None:
    answer = exchange(world, get(path))
    fields, body = head_of(answer), answer.partition(b"\r\n\r\n")[2]
    assert status(answer) == 200
    assert fields["content-type"] == content_type
    assert int(fields["content-length"]) == len(body)
    assert fields["connection"] == "keep-alive"
    assert text in body


REFUSED = {
    "GET /nothing HTTP/1.1\r\nHost: www\r\n\r\n": 404,
    "GET /bytes/ HTTP/1.1\r\nHost: www\r\n\r\n": 404,
    "GET /bytes/18446744073709551616 HTTP/1.1\r\nHost: www\r\n\r\n": 404,
    "GET /../etc HTTP/1.1\r\nHost: www\r\n\r\n": 404,
    "POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 3\r\n\r\nabc": 405,
    "DELETE /stats HTTP/1.1\r\nHost: www\r\n\r\n": 405,
    "GET /hash HTTP/1.1\r\nHost: www\r\n\r\n": 405,
    "GET / HTTP/1.1\r\n\r\n": 400,
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": 400,
    "GET / HTTP/1.1\r\nHost: www\r\n folded\r\n\r\n": 400,
    "GET / HTTP/1.1\r\nHost : www\r\n\r\n": 400,
    "GET / HTTP/1.1\r\nHost: www\r\nno colon\r\n\r\n": 400,
    "GET / HTTP/1.1\r\nHost: www\r\nX: \0\r\n\r\n": 400,
    "GET  / HTTP/1.1\r\nHost: www\r\n\r\n": 400,
    "GET /\r\n\r\n": 400,
    "hello\r\n\r\n": 400,
    "GET / HTTP/2.0\r\nHost: www\r\n\r\n": 505,
    "POST /hash HTTP/1.1\r\nHost: www\r\nContent-Length: -1\r\n\r\n": 400,
    "POST /hash HTTP/1.1\r\nHost: www\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    "POST /hash HTTP/1.1\r\nHost: www\r\nContent-Length: 1, 1\r\n\r\n": 400,
    "POST /hash HTTP/1.1\r\nHost: www\r\nTransfer-Encoding: chunked\r\n\r\n": 501,
    "POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n": 400,
    "POST / HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n": 405,
    "GET / HTTP/1.1\r\nHost: www\r\nX: " + "x" * 5000 + "\r\n\r\n": 431,
    "GET /" + "x" * 5000 + " HTTP/1.1\r\nHost: www\r\n\r\n": 431,
}


@pytest.mark.parametrize(("request_text", "expected"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused(world: World, request_text: str, expected: int) -> None:
    answer = exchange(world, request_text.encode())
    assert status(answer) == expected
    assert int(head_of(answer)["content-length"]) == len(answer.partition(b"\r\n\r\n")[2])
    assert (head_of(answer)["connection"] == "close") == (expected not in (404, 405)) or (
        "Expect" in request_text
    )


def test_method_not_allowed_says_what_is(world: World) -> None:
    answer = exchange(world, b"PUT / HTTP/1.1\r\nHost: www\r\nContent-Length: 5\r\n\r\nabcde" + GET)
    assert head_of(answer)["allow"] == "GET, HEAD"
    assert answer.count(b"HTTP/1.1 200 OK") == 1  # the body was not taken for a request


def test_head_has_no_body(world: World) -> None:
    answer = exchange(world, b"HEAD / HTTP/1.1\r\nHost: www\r\n\r\n")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    assert int(head_of(answer)["content-length"]) > 500


def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    answer = exchange(world, b"".join(get(f"/bytes/{n}") for n in range(1, 101)))
    sizes = [int(part.partition(b"\r\n")[0]) for part in answer.split(b"Content-Length: ")[1:]]
    assert sizes == list(range(1, 101))


def test_a_request_byte_by_byte(world: World) -> None:
    peer = Peer(world).open()
    for byte in GET:
        peer.send("PA", bytes([byte]))
    assert status(peer.segments()[-1].data) == 200


def test_bare_newlines_and_empty_lines_before(world: World) -> None:
    assert status(exchange(world, b"\r\n\nGET / HTTP/1.1\nHost: www\n\n")) == 200


@pytest.mark.parametrize(
    ("request_text", "connection"),
    [
        ("GET / HTTP/1.0\r\n\r\n", "close"),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
        ("GET / HTTP/1.1\r\nHost: www\r\nConnection: foo, CLOSE\r\n\r\n", "close"),
    ],
)
def test_connection(world: World, request_text: str, connection: str) -> None:
    peer = Peer(world).open()
    peer.send("PA", request_text.encode())
    segments = peer.segments()
    assert head_of(segments[0].data)["connection"] == connection
    assert ("F" in segments[-1].flags) == (connection == "close")


@pytest.mark.parametrize("size", [0, 1, 250, 251, 252, 16384, 1_000_003])
def test_bytes(world: World, size: int) -> None:
    answer = exchange(world, get(f"/bytes/{size}"))
    assert answer.partition(b"\r\n\r\n")[2] == bytes(i % 251 for i in range(size))


def test_hash(world: World) -> None:
    request = f"POST /hash HTTP/1.1\r\n{HOST}Content-Length: 6\r\n\r\nfoobar"
    body = exchange(world, request.encode()).partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"length": 6, "fnv1a64": "85944171f73967e8"}


def test_expect_continue(world: World) -> None:
    peer = Peer(world).open()
    request = f"POST /hash HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 6\r\n\r\n"
    peer.send("PA", request.encode())
    peer.expect("PA", b"HTTP/1.1 100 Continue\r\n\r\n")
    peer.send("PA", b"foobar")
    assert status(peer.read()) == 200


def test_an_answer_that_lies_ready_is_like_one_made_on_the_spot(world: World) -> None:
    closing = get("/", "Connection: close")
    ready, made = exchange(world, GET), exchange(world, closing, 40001)
    assert b"Connection: keep-alive" in ready
    assert made == ready.replace(b"Connection: keep-alive", b"Connection: close")


def test_stats(world: World) -> None:
    world.advance(1.5)
    exchange(world, GET)
    stats = json.loads(exchange(world, get("/stats"), 40001).partition(b"\r\n\r\n")[2])
    assert stats["service"] == "www"
    assert stats["platform"] == "host"
    assert (stats["requests"], stats["connections"]) == (2, 2)
    assert stats["uptime_us"] == 2_500_000


def test_a_head_that_trickles_in_does_not_keep_the_connection(world: World) -> None:
    peer = Peer(world).open()
    for byte in GET[:-1]:
        peer.send("PA", bytes([byte]))
        world.advance(5)
        if any("F" in segment.flags for segment in peer.segments()):
            return
    pytest.fail("still open")


def test_twenty_thousand_bad_frames(world: World) -> None:
    """Mutations of all it knows, and noise; afterwards it serves as before."""
    fuzz = random.Random(20)
    peer = Peer(world).open()
    seeds = [arp(1, GUEST_IP), ping(b"x" * 40), udp(7, b"y" * 40), udp(9, b"z")]
    for i in range(20_000):
        choice = fuzz.random()
        if choice < 0.1:
            frame = fuzz.randbytes(fuzz.randint(0, 1514))
        elif choice < 0.6:  # good checksums, wild numbers
            flags = "".join(flag for flag in "FSRPA" if fuzz.random() < 0.4)
            frame = Segment(
                flags,
                peer.seq + fuzz.choice([0, 1, -1, 5, 8191, 8192, fuzz.getrandbits(32)]),
                peer.ack + fuzz.choice([0, 1, -1, 5, fuzz.getrandbits(32)]),
                fuzz.choice([b"", GET, fuzz.randbytes(fuzz.randint(0, 1400))]),
                fuzz.choice([0, 1, 1000, 65535]),
                fuzz.choice([b"", fuzz.randbytes(fuzz.randint(0, 40))]),
                fuzz.choice([40000, fuzz.randint(0, 65535)]),
                fuzz.choice([80, 80, 80, 81, 0]),
            ).frame()
        else:
            mutant = bytearray(fuzz.choice(seeds))
            for _ in range(fuzz.randint(1, 4)):
                mutant[fuzz.randrange(len(mutant))] = fuzz.randrange(256)
            frame = bytes(mutant[: fuzz.randint(0, len(mutant))] if choice < 0.8 else mutant)
        world.give(frame)
        if i % 100 == 0:
            world.advance(fuzz.random())
            world.frames.clear()
    world.advance(600)
    world.frames.clear()
    assert status(exchange(world, GET, 50000)) == 200


def test_what_is_rehearsed_is_understood(library: ctypes.CDLL) -> None:
    for rehearse in (library.handover_rehearse, library.http_rehearse):
        rehearse.restype = ctypes.c_bool
        assert rehearse()
