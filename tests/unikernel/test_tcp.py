"""TCP, one conversation for each rule."""

import random
from itertools import pairwise

import pytest

from unikernel.guest import NEVER
from unikernel.packets import PEER_IP, Segment
from unikernel.talk import GET, Peer, World, get

WINDOW = 8192
MSS_100 = bytes.fromhex("02040064")


@pytest.fixture
def world(world_of_either: World) -> World:
    return world_of_either


@pytest.fixture
def peer(world: World) -> Peer:
    return Peer(world)


def mss(world: World) -> int:
    return 1460 if world.peer == PEER_IP else 1440


# -- The handshake --


def test_syn_ack_carries_mss_and_window(peer: Peer) -> None:
    peer.send("S", options=bytes.fromhex("020405b4"))
    answer = peer.expect("SA")
    assert answer.options == b"\2\4" + mss(peer.world).to_bytes(2)
    assert answer.window == WINDOW
    assert answer.ack == peer.seq


def test_window_scale_is_answered_and_honoured(peer: Peer) -> None:
    peer.send("S", options=bytes.fromhex("020405b4 01030307"))
    assert peer.expect("SA").options[4:] == bytes.fromhex("01030300")
    peer.window = 40
    peer.send("A")
    peer.send("PA", get("/bytes/100000"))
    sent = sum(len(s.data) for s in peer.segments())
    assert 40 << 6 < sent <= 40 << 7


def test_a_syn_sent_again_has_the_same_answer(peer: Peer) -> None:
    peer.send("S")
    first = peer.expect("SA")
    peer.send("S", seq=peer.seq - 1)
    assert peer.expect("SA") == first


def test_syn_ack_is_sent_again_then_forgotten(peer: Peer) -> None:
    peer.send("S")
    first = peer.expect("SA")
    times = []
    while peer.world.guest.deadline != NEVER:
        times.append(peer.world.next_deadline())
        assert all(s == first for s in peer.segments())
    assert times == [1, 2, 4, 8, 16]


def test_data_with_the_last_ack_of_the_handshake(peer: Peer) -> None:
    peer.send("S")
    peer.expect("SA")
    peer.send("PA", GET)
    assert peer.read().startswith(b"HTTP/1.1 200 OK")


def test_a_wrong_ack_in_the_handshake_is_reset(peer: Peer) -> None:
    peer.send("S")
    peer.expect("SA")
    peer.send("A", ack=peer.ack + 1)
    answer = peer.expect("R")
    assert answer.seq == peer.ack
    peer.ack = (answer.seq - 1) % 2**32
    peer.send("PA", GET)  # it is still there
    assert peer.read().startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("flags", ["", "F", "FS", "P", "FSP"])
def test_nonsense_to_a_listener_is_ignored(peer: Peer, flags: str) -> None:
    peer.send(flags)
    peer.silence()


@pytest.mark.parametrize(("flags", "answer"), [("S", "RA"), ("FS", "RA"), ("A", "R"), ("R", None)])
def test_a_port_without_a_service(world: World, flags: str, answer: str | None) -> None:
    frames = world.answers(Segment(flags, 100, 200, service=81, peer=world.peer).frame())
    segments = [Segment.parse(frame) for frame in frames]
    assert [s and s.flags for s in segments] == ([answer] if answer else [])
    for segment in segments:
        assert segment
        expected = (200, 0) if answer == "R" else (0, 101 + flags.count("F"))
        assert (segment.seq, segment.ack) == expected


def test_initial_numbers_differ_by_peer_and_grow_with_time(world: World) -> None:
    numbers = []
    for port in (40000, 40001):
        peer = Peer(world, port)
        peer.send("S")
        numbers.append(peer.expect("SA").seq)
        peer.send("R")
    assert abs(numbers[0] - numbers[1]) > 10
    world.advance(1)
    again = Peer(world, 40000)
    again.send("S")
    assert (again.expect("SA").seq - numbers[0]) % 2**32 == 250_000


# -- Data --


def test_segments_are_no_larger_than_the_peer_says(peer: Peer) -> None:
    peer.open(MSS_100).send("PA", get("/bytes/5000"))
    assert max(len(s.data) for s in peer.segments()) == 100


def test_without_an_mss_segments_have_what_each_link_carries(peer: Peer) -> None:
    peer.open(b"").send("PA", get("/bytes/5000"))
    least = 536 if peer.world.peer == PEER_IP else 1220
    assert max(len(s.data) for s in peer.segments()) == least


def test_initial_window_is_ten_segments(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/100000"))
    assert sum(len(s.data) for s in peer.segments()) == 10 * mss(peer.world)


def test_slow_start_doubles(peer: Peer) -> None:
    peer.open(MSS_100).send("PA", get("/bytes/100000"))
    flights = []
    for _ in range(4):
        segments = peer.segments()
        flights.append(len(segments))
        peer.world.now += 1_000_000
        for segment in segments:
            peer.ack = segment.seq + len(segment.data)
            peer.send("A")
    assert flights == [10, 20, 40, 80]


def test_bytes_one_by_one_and_backwards(peer: Peer) -> None:
    """Out of order up to the bound of eight islands; all the rest must come again."""
    peer.open()
    start = peer.seq
    for i in reversed(range(1, len(GET))):
        peer.send("A", GET[i : i + 1], seq=start + i)
        assert [s.ack for s in peer.segments()] == [start]
    peer.send("A", GET[:1], seq=start)
    peer.seq += len(GET)
    assert peer.read().startswith(b"HTTP/1.1 200 OK")


def test_every_overlap_of_segments(world: World) -> None:
    shuffle = random.Random(5)
    for port in range(41000, 41100):
        peer = Peer(world, port).open()
        start, pieces = peer.seq, []
        for _ in range(12):
            a, b = sorted(shuffle.sample(range(len(GET) + 1), 2))
            pieces.append((a, b))
        pieces += [(i, min(i + 7, len(GET))) for i in range(0, len(GET), 7)]
        for a, b in pieces:
            peer.send("A", GET[a:b], seq=start + a)
        peer.seq += len(GET)
        answer = b"".join(s.data for s in peer.segments())
        assert answer.startswith(b"HTTP/1.1 200 OK"), f"port {port}"
        assert answer.endswith(b"</html>\n"), f"port {port}"
        peer.send("R")


def test_more_islands_than_there_is_place_for(peer: Peer) -> None:
    peer.open()
    start = peer.seq
    body = GET + b" " * 200
    for i in range(2, 60, 2):
        peer.send("A", body[i : i + 1], seq=start + i)
    peer.segments()
    peer.send("A", GET, seq=start)
    peer.seq += len(GET)
    assert b"200 OK" in b"".join(s.data for s in peer.segments())


def test_a_duplicate_is_acknowledged_each_time(peer: Peer) -> None:
    peer.open().send("PA", GET)
    peer.read()
    for _ in range(3):
        peer.send("PA", GET, seq=peer.seq - len(GET))
        peer.expect("A")


def test_keep_alive_probe_is_answered(peer: Peer) -> None:
    peer.open()
    for data in b"", b"\0":
        peer.world.advance(1)
        peer.send("A", data, seq=peer.seq - 1)
        peer.expect("A")


def test_sequence_numbers_wrap(world: World) -> None:
    for start in range(2**32 - 40, 2**32, 8):
        peer = Peer(world, start % 10000 + 20000)
        peer.seq = start
        peer.send("S")
        peer.expect("SA")
        peer.seq %= 2**32
        peer.send("A")
        for byte in GET:
            peer.send("A", bytes([byte]))
        assert b"".join(s.data for s in peer.segments()).endswith(b"</html>\n")


def test_our_window_closes_and_opens(peer: Peer) -> None:
    """The app stops reading when its answers find no room."""
    peer.open()
    peer.window = 0
    request = get("/bytes/20000")
    left = WINDOW
    while left >= len(request):
        peer.send("A", request)
        left = peer.segments()[-1].window
    peer.send("A", bytes(1400), seq=peer.seq)
    last = peer.segments()[-1]
    assert last.window == 0
    assert last.ack == peer.seq + left
    peer.send("A", b"x", seq=last.ack)  # a probe of theirs
    assert peer.expect_ack_only() == last.ack
    peer.seq = last.ack
    peer.window = 65535
    peer.send("A")  # no data: what the app reads from now on is news of its own
    windows, answered = [], b""
    while segments := peer.segments():
        windows += [segment.window for segment in segments]
        answered += b"".join(segment.data for segment in segments)
        peer.ack = (segments[-1].seq + len(segments[-1].data)) % 2**32
        peer.send("A")
    assert answered.count(b"200 OK") == WINDOW // len(request)
    assert windows[0] == 0
    assert windows[-1] > WINDOW - 1460


# -- Loss --


def test_retransmission_backs_off_then_gives_up_with_a_reset(peer: Peer) -> None:
    peer.open(MSS_100).send("PA", get("/bytes/100000"))
    first = peer.segments()[0]
    waits = []
    while True:
        waits.append(round(peer.world.next_deadline(), 1))
        [again] = peer.segments()
        if again.flags == "R":
            break
        assert (again.seq, again.data) == (first.seq, first.data)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2] + 7 * [60]


def test_three_duplicate_acks_resend_at_once(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/100000"))
    segments = peer.segments()
    peer.ack = segments[0].seq
    for _ in range(2):
        peer.send("A")
        peer.silence()
    peer.send("A")
    again = peer.segments()
    assert [(s.seq, s.data) for s in again] == [(segments[0].seq, segments[0].data)]


def test_a_partial_ack_resends_the_next_hole(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/100000"))
    segments = peer.segments()
    peer.ack = segments[0].seq
    for _ in range(3):
        peer.send("A")
    peer.segments()
    peer.ack = segments[4].seq  # the first four were there, the fifth is not
    peer.send("A")
    assert peer.segments()[0].seq == segments[4].seq


def test_zero_window_is_probed_with_back_off_for_ever(peer: Peer) -> None:
    peer.open()
    peer.window = 0
    peer.send("PA", get("/bytes/50"))
    peer.expect("A", b"")
    probes = []
    for _ in range(6):
        while not (segments := peer.segments()):
            probes.append(peer.world.next_deadline())
        [probe] = segments
        assert len(probe.data) == 1
        peer.send("A")
    assert [round(b / a) for a, b in pairwise(probes)] == [2, 2, 2, 2]
    peer.window = 65535
    peer.send("A")
    assert b"200 OK" in peer.read()


def test_a_peer_that_vanished_behind_a_zero_window_is_given_up(peer: Peer) -> None:
    peer.open()
    peer.window = 0
    peer.send("PA", GET)
    peer.world.advance(1000)
    assert peer.segments()[-1].flags == "R"


# -- The end --


def test_they_close_first(peer: Peer) -> None:
    peer.open()
    peer.send("FA")
    assert peer.expect("FA").ack == peer.seq
    peer.send("A")
    peer.silence()
    peer.send("A")  # late, by way of the host
    peer.silence()
    peer.world.advance(0.11)
    peer.send("A")  # there is no such connection any more
    assert peer.segments()[0].flags == "R"


def test_half_close_still_gets_its_answer(peer: Peer) -> None:
    peer.open().send("FPA", get("/bytes/30000"))
    answer = peer.read()
    assert len(answer.partition(b"\r\n\r\n")[2]) == 30000
    peer.silence()


def test_we_close_first(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/3", "Connection: close"))
    answer = peer.segments()[-1]
    assert "F" in answer.flags
    peer.ack = answer.seq + answer.length
    peer.send("A")
    peer.send("FA")
    peer.expect("A")
    peer.world.advance(1)
    peer.send("FA", seq=peer.seq - 1)  # our ACK was lost
    peer.expect("A")
    peer.send("RA")  # RFC 1337: does not end TIME_WAIT
    peer.send("FA", seq=peer.seq - 1)
    assert peer.segments()[-1].flags == "A"
    peer.world.advance(31)
    peer.send("A")
    peer.expect_reset()


def test_fin_with_the_ack_of_ours(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/3", "Connection: close"))
    answer = peer.segments()[-1]
    peer.ack = answer.seq + answer.length
    peer.send("FA")
    peer.expect("A")


def test_both_close_at_once(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/3", "Connection: close"))
    answer = peer.segments()[-1]
    peer.ack = answer.seq
    peer.send("FA")  # has seen nothing of ours: CLOSING
    peer.segments()
    peer.world.next_deadline()
    assert "F" in peer.segments()[-1].flags  # it goes on sending its own
    peer.ack = answer.seq + answer.length
    peer.send("A")  # TIME_WAIT
    peer.silence()
    peer.send("FA", seq=peer.seq - 1)
    peer.expect("A")


def test_fin_before_the_data_ahead_of_it(peer: Peer) -> None:
    peer.open()
    start = peer.seq
    peer.send("FA", seq=start + len(GET))
    assert peer.segments()[0].ack == start
    peer.send("PA", GET, seq=start)
    peer.seq += len(GET) + 1
    segments = peer.segments()
    assert "F" in segments[-1].flags
    assert segments[-1].ack == peer.seq


def test_fin_wait_2_ends_by_itself(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/3", "Connection: close"))
    answer = peer.segments()[-1]
    peer.ack = answer.seq + answer.length
    peer.send("A")
    peer.world.advance(61)
    peer.send("A")
    peer.expect_reset()
    assert peer.world.guest.deadline == NEVER


def test_a_port_is_used_again_during_time_wait(peer: Peer) -> None:
    peer.open().send("PA", get("/bytes/3", "Connection: close"))
    answer = peer.segments()[-1]
    peer.ack = answer.seq + answer.length
    peer.send("FA")
    peer.expect("A")
    peer.world.advance(1)
    peer.seq += 100
    peer.open().send("PA", GET)
    assert b"200 OK" in peer.read()


def test_idle_connections_are_closed(peer: Peer) -> None:
    peer.open()
    peer.world.advance(59)
    peer.silence()
    peer.world.advance(2)
    assert peer.segments()[0].flags == "FA"


# -- Attacks (RFC 5961) --


def test_a_reset_must_hit_the_very_number(peer: Peer) -> None:
    peer.open()
    peer.send("R", seq=peer.seq + 100)
    peer.expect("A")
    peer.world.advance(1)
    peer.send("R", seq=peer.seq + WINDOW)
    peer.send("R", seq=peer.seq - 1)
    peer.silence()
    peer.send("R", seq=peer.seq)
    peer.send("A")
    peer.expect_reset()


@pytest.mark.parametrize("offset", [0, 5, -5, 100_000])
def test_a_syn_within_a_connection_is_challenged(peer: Peer, offset: int) -> None:
    peer.open()
    peer.send("S", seq=peer.seq + offset)
    peer.expect("A")


@pytest.mark.parametrize("offset", [1, -70_000, 2**31 - 1])
def test_an_impossible_ack_is_challenged(peer: Peer, offset: int) -> None:
    peer.open()
    peer.send("A", b"evil", seq=peer.seq, ack=peer.ack + offset)
    peer.expect("A")


def test_challenges_are_limited(peer: Peer) -> None:
    peer.open()
    for _ in range(100):
        peer.send("S", seq=peer.seq)
    assert len(peer.segments()) == 1
    peer.world.advance(0.5)
    peer.send("S", seq=peer.seq)
    assert len(peer.segments()) == 1
