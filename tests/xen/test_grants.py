"""Event channels and granted pages of a real Xen; peers are we ourselves, and Xen's library."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host.store_client import RawClient
from jitsu.errors import HostError
from jitsu.host.xen.evtchn import VIRQ_DOM_EXC, EventChannels
from jitsu.host.xen.gntalloc import GrantAllocator
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.wire.xenstore import Op, join
from xen import vchan

pytestmark = pytest.mark.xen(store="oxenstored")

SOCKET = Path("/run/xenstored/socket")
PATH = "/local/domain/0/data/vchan"


@pytest.fixture
def channels() -> Iterator[EventChannels]:
    with EventChannels() as opened:
        yield opened


@pytest.fixture
def mapper() -> Iterator[GrantMapper]:
    with GrantMapper() as opened:
        yield opened


@pytest.fixture
def allocator() -> Iterator[GrantAllocator]:
    with GrantAllocator() as opened:
        yield opened


def heard(channels: EventChannels) -> list[int]:
    assert select.select([channels], [], [], vchan.PATIENCE)[0]
    return channels.fired()


def test_an_event_goes_each_way(channels: EventChannels) -> None:
    offered = channels.bind_unbound(0)
    bound = channels.bind_interdomain(0, offered)
    assert heard(channels) in ([bound], [offered])  # Xen fires a channel that is bound
    channels.notify(bound)
    assert heard(channels) == [offered]
    channels.notify(offered)
    assert heard(channels) == [bound]
    assert channels.fired() == []


def test_an_end_that_is_closed_can_be_bound_again(channels: EventChannels) -> None:
    """As the store is, when its daemon was killed."""
    with EventChannels() as other:
        offered = other.bind_unbound(0)
        channels.bind_interdomain(0, offered)
        channels.close()
        with EventChannels() as heir:
            bound = heir.bind_interdomain(0, offered)
            other.fired()
            heir.notify(bound)
            assert heard(other) == [offered]


def test_ports_that_are_none(channels: EventChannels) -> None:
    with pytest.raises(HostError, match="event channel 4000"):
        channels.notify(4000)
    with pytest.raises(HostError, match="event channel 4000"):
        channels.unbind(4000)
    with pytest.raises(HostError, match="event channel 77 of domain 99"):
        channels.bind_interdomain(99, 77)
    with pytest.raises(HostError, match="virtual IRQ 3: File exists"):
        channels.bind_virq(VIRQ_DOM_EXC)  # it is the store's


def test_pages_are_the_same_on_both_sides(allocator: GrantAllocator, mapper: GrantMapper) -> None:
    ours = allocator.share(0, 3)
    assert len(ours.refs) == 3
    theirs = mapper.map(0, ours.refs)
    ours.memory[5000:5005] = b"hello"
    assert theirs.memory[5000:5005] == b"hello"
    theirs.memory[12287] = 7
    assert ours.memory[12287] == 7
    assert len(theirs.memory) == 3 * 4096
    theirs.close()
    ours.close()
    with pytest.raises(HostError):
        mapper.map(0, ours.refs)


def test_grants_that_are_none(mapper: GrantMapper) -> None:
    with pytest.raises(HostError, match="grants 4444 of domain 0"):
        mapper.map(0, [4444])
    with pytest.raises(HostError, match="grants 1 of domain 99"):
        mapper.map(99, [1])
    with pytest.raises(HostError):
        mapper.map(0, [])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_and_grants_are_given_back(
    allocator: GrantAllocator, mapper: GrantMapper
) -> None:
    """More pages one after another than Linux lets one process have at a time."""
    before = descriptors()
    for _ in range(1100):
        with allocator.share(0, 1) as ours, mapper.map(0, ours.refs):
            pass
    assert descriptors() == before


@pytest.mark.parametrize("side", ["mapped", "shared"])
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_who_unmaps_is_noticed(
    side: str, how: str, channels: EventChannels, allocator: GrantAllocator, mapper: GrantMapper
) -> None:
    offered = channels.bind_unbound(0)
    ours = allocator.share(0, 1)
    theirs = mapper.map(0, ours.refs)
    ours.memory[100] = 1
    child = os.fork()
    if child:
        code = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(code) == (0 if how == "closed" else -9)
    else:
        with EventChannels() as its, GrantAllocator() as more, GrantMapper() as again:
            port = its.bind_interdomain(0, offered)
            if side == "mapped":
                pages = again.map(0, ours.refs)
                pages.notify_on_unmap(clear=100, port=port)
            else:
                pages = more.share(0, 1)
                pages.notify_on_unmap(port=port)
            if how == "closed":
                pages.close()
                os._exit(0)
            os.kill(os.getpid(), 9)
    assert heard(channels) == [offered]
    if side == "mapped":
        assert theirs.memory[100] == 0


@contextmanager
def peer(role: str) -> Iterator[subprocess.Popen[str]]:
    """Xen's own library at the other end, in a process of its own."""
    script = Path(__file__).with_name("vchan_peer.py")
    running = subprocess.Popen(
        [sys.executable, str(script), role, PATH], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    with running.stdout:
        try:
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            if running.poll() is None:
                running.kill()
            running.wait()


def alone(running: subprocess.Popen[str]) -> bool:
    """Tell whether the peer notices that we have gone."""
    assert running.stdout is not None
    return running.stdout.readline() == "alone\n" and running.wait(vchan.PATIENCE) == 0


TEXT = bytes(range(97, 123)) * 1000


def test_the_library_is_our_server(channels: EventChannels, mapper: GrantMapper) -> None:
    with peer("server") as running, RawClient(SOCKET) as store:
        ref = int(store.read(f"{PATH}/ring-ref".encode()))
        offered = int(store.read(f"{PATH}/event-channel".encode()))
        end = vchan.client(channels, mapper, ref, offered)
        for at in range(0, len(TEXT), 2000):
            end.write(TEXT[at : at + 2000])
            assert end.read(len(TEXT[at : at + 2000])) == TEXT[at : at + 2000].upper()
        end.shared.close()
        assert alone(running)


def test_the_library_is_our_client(channels: EventChannels, allocator: GrantAllocator) -> None:
    end, ref = vchan.server(channels, allocator)
    with RawClient(SOCKET) as store:
        store.write(f"{PATH}/ring-ref".encode(), b"%d" % ref)
        store.write(f"{PATH}/event-channel".encode(), b"%d" % end.port)
        with peer("client") as running:
            for at in range(0, len(TEXT), 2000):
                end.write(TEXT[at : at + 2000])
                assert end.read(len(TEXT[at : at + 2000])) == TEXT[at : at + 2000].upper()
            end.shared.close()
            assert alone(running)
        store.ask(Op.RM, join(PATH.encode()))
