"""Splicing in the kernel: curl's connections go on with a Linux that has never seen them begin."""

import asyncio
import hashlib
import http.client
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from host import kernel
from host.kernel import WWW, Lab
from host.splicing import GUEST_PORT, PORT, Proxy, Wanted, body, play, run, said
from jitsu.core.segment import Ends, encode
from jitsu.core.splice import Failed, Numbers, Spliced
from jitsu.errors import HostError
from jitsu.host import bpf, splice
from jitsu.host.splice import Flow, Splicer
from jitsu.host.tap import open_tap
from jitsu.wire.tcb import TcbState
from jitsu.wire.tcp import Flags, Segment, seq_add

pytestmark = kernel.marks()
FLOWS = 100
CURL = ("curl", "-sS", "-g", "--noproxy", "*", "-m", "20")
ADDRESSES = [str(WWW.address), f"[{WWW.address6}]"]
EITHER = pytest.mark.parametrize("address", ADDRESSES)


def asked(flows: int) -> Wanted:
    """Say when so many clients have sent their whole request."""
    return lambda proxy: (
        sum(b"\r\n\r\n" in t.received for t in proxy.conversations.values()) == flows
    )


def known(proxy: Proxy) -> bool:
    """Say when there is a client, whatever it has said."""
    return bool(proxy.conversations)


def full(proxy: Proxy) -> bool:
    """Say when a client has sent as much as it may."""
    return any(len(talk.received) == 8192 for talk in proxy.conversations.values())


@EITHER
def test_a_hundred_clients(address: str, tmp_path: Path) -> None:
    async def story(lab: Lab, proxy: Proxy) -> None:
        options = ("--parallel", "--parallel-immediate", "--parallel-max", str(FLOWS))
        pages = f"http://{address}/[1-{FLOWS}]"
        await said(run(lab, *CURL[:2], *CURL[3:], *options, "-o", f"{tmp_path}/#1", pages))
        for number in range(1, FLOWS + 1):
            assert (tmp_path / str(number)).read_bytes() == body(f"/{number}"), number
        assert [type(outcome) for outcome in proxy.outcomes] == [Spliced] * FLOWS
        # Both ends of each have closed; a while later they are forgotten.
        flows = proxy.splicer.flows()
        assert len(flows) == FLOWS
        assert all(how.is_over and how.delta for how in flows.values())
        assert proxy.splicer.sweep(time.monotonic()) == FLOWS
        assert proxy.splicer.sweep(time.monotonic() + splice.LINGER) == 0

    play(story, asked(FLOWS))


@EITHER
def test_an_upload_begun_before_the_guest_was_there(address: str, tmp_path: Path) -> None:
    async def story(lab: Lab, proxy: Proxy) -> None:
        sent = random.Random(address).randbytes(3_000_000)
        (tmp_path / "sent").write_bytes(sent)
        upload = ("--data-binary", f"@{tmp_path}/sent", "-H", "Expect:")
        came = await said(run(lab, *CURL, *upload, f"http://{address}/"))
        assert came == hashlib.sha256(sent).hexdigest()
        assert [type(outcome) for outcome in proxy.outcomes] == [Spliced]

    play(story, full)


@EITHER
def test_a_handshake_is_finished_by_the_guest(address: str) -> None:
    async def story(lab: Lab, proxy: Proxy) -> None:
        page = ("-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/")
        assert await said(run(lab, *CURL, *page)) == "200"
        (talk,) = proxy.conversations.values()
        assert talk.state is TcbState.SYN_RECEIVED
        assert [type(outcome) for outcome in proxy.outcomes] == [Spliced]

    play(story, known)


@EITHER
def test_a_client_that_closes_first_gets_all_the_same(address: str) -> None:
    async def story(lab: Lab, proxy: Proxy) -> None:
        host = address.strip("[]")
        script = (
            "import socket,sys,hashlib\n"
            f"s = socket.create_connection(('{host}', {PORT}), 20)\n"
            "s.sendall(b'GET /half HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n')\n"
            "s.shutdown(socket.SHUT_WR)\n"
            "got = b''.join(iter(lambda: s.recv(65536), b''))\n"
            "print(hashlib.sha256(got.split(b'\\r\\n\\r\\n', 1)[1]).hexdigest())\n"
        )
        got = await said(run(lab, "python3", "-c", script))
        assert got.strip() == hashlib.sha256(body("/half")).hexdigest()
        (talk,) = proxy.conversations.values()
        assert talk.state is TcbState.CLOSE_WAIT

    def closed(proxy: Proxy) -> bool:
        return any(t.state is TcbState.CLOSE_WAIT for t in proxy.conversations.values())

    play(story, closed)


async def connected(lab: Lab, address: str, port: int = 0) -> http.client.HTTPConnection:
    """Return a client's connection, from a port of its."""
    host = address.strip("[]")
    client = http.client.HTTPConnection(host, PORT)
    with lab.hosts.at(lab.hosts.client):
        client.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    client.sock.bind(("", port))
    client.sock.settimeout(20)
    await asyncio.to_thread(client.sock.connect, (host, PORT))
    return client


async def fetched(client: http.client.HTTPConnection, path: str) -> bytes:
    """Return the page."""
    client.request("GET", path)
    return (await asyncio.to_thread(client.getresponse)).read()


@EITHER
def test_who_forges_a_client_ends_nothing(address: str) -> None:
    """Whoever it is knows the addresses and ports, and no number."""

    async def story(lab: Lab, proxy: Proxy) -> None:
        with closing(await connected(lab, address)) as client:
            assert await fetched(client, "/first") == body("/first")
            (talk,) = proxy.conversations.values()
            ends = talk.ends.turned()
            for flags in (Flags.RST, Flags.SYN, Flags.FIN | Flags.ACK):
                wrong = seq_add(talk.irs, 1 << 30)
                forged = Segment(ends.port, ends.peer_port, wrong, wrong, flags, 1000)
                lab.client.send(encode(ends, forged))
            assert await fetched(client, "/second") == body("/second")
            ((flow, how),) = proxy.splicer.flows().items()
            assert (flow.peer_port, how.is_over) == (talk.ends.peer_port, False)

    play(story, asked(1))


@EITHER
def test_a_client_uses_its_port_again(address: str) -> None:
    """It has reset what was spliced; the guest opens the next by itself."""

    async def story(lab: Lab, proxy: Proxy) -> None:
        with closing(await connected(lab, address)) as client:
            assert await fetched(client, "/first") == body("/first")
            port = client.sock.getsockname()[1]
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert len(proxy.splicer.flows()) == 1
        with closing(await connected(lab, address, port)) as again:
            assert await fetched(again, "/second") == body("/second")
            assert proxy.splicer.flows() == {}

    play(story, asked(1))


@EITHER
def test_a_closed_port_refuses(address: str) -> None:
    async def story(lab: Lab, proxy: Proxy) -> None:
        url = f"http://{address}:81/"
        assert await said(
            run(lab, "sh", "-c", f"{' '.join(CURL[:3])} --noproxy '*' '{url}'; echo $?")
        )
        (outcome,) = proxy.outcomes
        assert isinstance(outcome, Failed)
        assert proxy.splicer.flows() == {}

    play(story, asked(1))


@contextmanager
def link() -> Iterator[int]:
    """Have a guest's link without a guest; its descriptor is returned."""
    with kernel.host():
        tap = open_tap(GUEST_PORT, vnet_hdr=True)
        try:
            yield tap
        finally:
            os.close(tap)


def test_nothing_is_left_where_it_was_attached() -> None:
    with link(), IPRoute() as ipr:
        before, descriptors = _hooks(ipr), _descriptors()
        splicer = Splicer(socket.if_nametoindex(GUEST_PORT))
        assert "clsact" in _hooks(ipr)
        with pytest.raises(HostError, match="File exists"):
            Splicer(socket.if_nametoindex(GUEST_PORT))
        splicer.close()
        assert _hooks(ipr) == before
        assert _descriptors() == descriptors


def test_a_link_that_is_gone_is_no_trouble() -> None:
    with link(), IPRoute() as ipr:
        index = socket.if_nametoindex(GUEST_PORT)
        splicer = Splicer(index)
        ipr.link("del", ifname=GUEST_PORT)
        splicer.close()
        with pytest.raises(HostError, match="No such device"):
            Splicer(index)


def test_it_knows_what_it_translates() -> None:
    assert WWW.address6 is not None
    four = Ends(WWW.mac, WWW.address, 80, *kernel.CLIENT, 4000)
    six = Ends(WWW.mac, WWW.address6, 80, kernel.CLIENT[0], WWW.address6 + 1, 4000)
    with link():
        splicer = Splicer(socket.if_nametoindex(GUEST_PORT))
        splicer.add(four, None)
        splicer.add(six, Numbers(0, 1, 0))
        flows = splicer.flows()
        assert (flows[Flow.of(four)].delta, flows[Flow.of(six)].delta) == (None, 0xFFFF_FFFF)
        splicer.remove(four)
        splicer.remove(four)
        assert set(splicer.flows()) == {Flow.of(six)}
        for port in range(splice.FLOWS_MAX - 1):
            splicer.add(replace(six, port=81, peer_port=port), Numbers(1, 0, 0))
        with pytest.raises(HostError, match="no room"):
            splicer.add(four, Numbers(1, 0, 0))
        splicer.close()


def test_a_kernel_that_refuses_says_so() -> None:
    """Who is root only in a user namespace may not load programs."""
    script = (
        "from jitsu.host.splice import Splicer; from jitsu.host.tap import open_tap\n"
        "tap = open_tap('tap0')\n"
        "try: Splicer(2)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = ("unshare", "-Urn", sys.executable, "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.startswith("unshare:"):
        pytest.skip(done.stderr)
    assert done.stdout.startswith("HostError the kernel refuses BPF: "), done


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.o"
    with pytest.raises(HostError, match=r"broken\.o: No such file.*make image"):
        bpf.load(broken)
    whole = splice.OBJECT.read_bytes()
    for size in (0, 10, 100, len(whole) - 8):
        broken.write_bytes(whole[:size])
        with pytest.raises(HostError, match="is no object for BPF"):
            bpf.load(broken)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _hooks(ipr: IPRoute) -> set[str]:
    (index,) = ipr.link_lookup(ifname=GUEST_PORT)
    return {q.get("TCA_KIND") for q in ipr.get_qdiscs(index) if q["index"] == index}
