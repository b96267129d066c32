"""The QEMU backend on any machine: a script plays QEMU."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from config.elf import elf64
from jitsu.backends.base import Exit
from jitsu.backends.qemu import Qemu, QemuBackend
from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.core.summon import Traffic
from jitsu.errors import HostError
from jitsu.host.network import FrameHandler, GuestLink, StorePort
from jitsu.host.process import Leftovers
from jitsu.model import Epoch, Name, NetworkConfig, Service, mac_of
from jitsu.testing.backend_contract import Seen

PATIENCE = 10.0
SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[254])
SCRIPT = """#!/bin/sh
case "$*" in
*says=3*) echo "jitsu: exit 3" ;;
*waits=1*) kill -STOP $$ ;;
esac
"""


@dataclass(slots=True)
class Trouble:
    """What goes wrong with links."""

    joining: str = ""
    closing: str = ""


class Link:
    """A link that leads nowhere."""

    def __init__(self, trouble: Trouble) -> None:
        self.fd = os.open(os.devnull, os.O_RDWR)
        self.index = 0
        self.requests = (b"", b"")
        self._trouble = trouble

    def release(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def hear(self, on_frame: FrameHandler) -> None:
        """Nothing is heard."""

    async def join(self, on_frame: FrameHandler) -> None:
        if self._trouble.joining:
            raise HostError(self._trouble.joining)

    def send(self, frame: bytes) -> None:
        """Lose it."""

    def attend(self, on_payload: FrameHandler) -> StorePort:
        raise HostError("it leads nowhere")

    def shift(self, ends: Ends, numbers: Numbers | None) -> None:
        """Nothing is sent."""

    def unshift(self, ends: Ends) -> None:
        """Nor is this."""

    async def sweep(self) -> None:
        """Nor this."""

    def ask_orphans(self) -> None:
        """There are none."""

    def deafen(self) -> None:
        """Nothing was heard."""

    async def close(self) -> None:
        self.release()
        if self._trouble.closing:
            raise HostError(self._trouble.closing)


class Nowhere:
    """A network of such links."""

    def __init__(self) -> None:
        self.trouble = Trouble()

    def send(self, frame: bytes) -> None:
        """Lose it."""

    async def open(self, service: Service, made: str = "", *, ahead: bool = False) -> GuestLink:
        return Link(self.trouble)

    async def own(self, service: Service, link: GuestLink | None) -> None:
        """Nobody sends anything."""

    def remember(self, local: bytes, port: int, peer: bytes, peer_port: int) -> None:
        """Nobody is told of any."""

    async def track(self, service: Service, opened: Sequence[Ends], ended: Sequence[Ends]) -> None:
        """Nobody has connections."""

    async def traffic(self, services: list[Service]) -> dict[str, Traffic]:
        return {service.name: Traffic(0.0, 0) for service in services}


Live = Callable[[str], Awaitable[Exit]]


def play(folder: Path, story: Callable[[Live, Nowhere], Awaitable[None]]) -> list[str]:
    """Play a story of guests with one console; return what the loop complained of."""
    binary, image = folder / "qemu", folder / "image"
    binary.write_text(SCRIPT)
    binary.chmod(0o755)
    image.write_bytes(elf64())
    complaints: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context["exception"])))
        network = Nowhere()
        backend = QemuBackend(Qemu(str(binary)), NETWORK, Leftovers(folder, complaints.append))
        name = Name("www")
        service = Service(name, (), str(image), SUBNET[10], mac_of(name))

        async def live(cmdline: str) -> Exit:
            guest = replace(service, cmdline=cmdline)
            instance = await backend.boot(guest, Epoch(1), network, Seen())
            async with asyncio.timeout(PATIENCE):
                return await instance.gone

        await story(live, network)

    asyncio.run(main())
    return complaints


def test_a_guest_is_judged_by_its_own_last_words(tmp_path: Path) -> None:
    async def story(live: Live, _: Nowhere) -> None:
        assert await live("says=3") == Exit("the guest exited with 3, see its log", clean=False)
        assert await live("") == Exit("the guest has ended", clean=True)

    assert play(tmp_path, story) == []


def test_why_a_guest_could_not_join(tmp_path: Path) -> None:
    async def story(live: Live, network: Nowhere) -> None:
        network.trouble.joining = "rtnetlink: File exists"
        assert await live("waits=1") == Exit("rtnetlink: File exists", clean=False, began=False)

    assert play(tmp_path, story) == []


def test_what_cannot_be_tidied_up_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def story(live: Live, network: Nowhere) -> None:
        network.trouble.closing = "nftables has gone"
        assert (await live("")).clean

    assert play(tmp_path, story) == ["nftables has gone"]
