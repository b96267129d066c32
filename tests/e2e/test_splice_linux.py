"""Splicing to a real virtual machine that runs Debian's kernel, which knows nothing of Jitsu."""

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.test_handoff import fnv
from host import kernel
from host.kernel import NETWORK, WWW, Lab
from host.splicing import Proxy, introduce, run, said
from jitsu.backends import qemu
from jitsu.backends.base import Instance
from jitsu.bench.linux_guest import MEMORY, LinuxGuest, content, linux_guest
from jitsu.core.splice import Spliced
from jitsu.errors import HostError
from jitsu.host.link import KernelNetwork, kernel_network
from jitsu.host.process import Leftovers
from jitsu.model import Epoch, StopMode

FLOWS = 50
CURL = ("curl", "-sS", "--noproxy", "*", "-m", "60")


class Machine:
    """A Linux guest that boots, and the proxy that clients are kept by meanwhile."""

    def __init__(self, backend: qemu.QemuBackend, network: KernelNetwork) -> None:
        self._backend = backend
        self._network = network
        self._proxy: Proxy | None = None
        self._serves = False

    def stage(self, name: str) -> None:
        """Nothing depends on it."""

    def on_frame(self, frame: bytes) -> None:
        """Take a frame of the guest's; with its first it can serve."""
        self._serves = True
        if self._proxy is not None:
            self._proxy.guest_sent(frame)
            self._proxy.look()

    async def boot(
        self, guest: LinuxGuest, time: Callable[[Proxy], bool]
    ) -> tuple[Instance, Proxy]:
        service = replace(
            WWW,
            image=str(guest.image),
            initrd=str(guest.initrd),
            memory=MEMORY,
            cmdline=f"ip6={WWW.address6}/64 quiet",
        )
        instance = await self._backend.boot(service, Epoch(1), self._network, self)
        self._proxy = Proxy(self._network, instance.link.send, lambda p: self._serves and time(p))
        self._network.listen(self._proxy.frame, lambda error: pytest.fail(str(error)))
        return instance, self._proxy


def test_a_linux_that_has_never_heard_of_it(tmp_path: Path) -> None:
    try:
        guest = linux_guest()
    except HostError as error:
        pytest.skip(str(error))

    def asked(proxy: Proxy) -> bool:
        talks = proxy.conversations.values()
        return sum(b"\r\n\r\n" in talk.received for talk in talks) == 2 * FLOWS + 1

    async def main(lab: Lab, network: KernelNetwork) -> None:
        leftovers = Leftovers(tmp_path / "guests", pytest.fail)
        machine = Machine(qemu.QemuBackend(qemu.find(), NETWORK, leftovers), network)
        instance, proxy = await machine.boot(guest, asked)
        try:
            curls = [run(lab, *command) for command in commands(tmp_path)]
            *_, upload = [await said(curl) for curl in curls]
        finally:
            instance.stop(StopMode.DESTROY)
            await instance.gone
            network.deafen()
            proxy.splicer.close()
        assert [type(outcome) for outcome in proxy.outcomes] == [Spliced] * (2 * FLOWS + 1)
        assert upload == f"{len(SENT)} {fnv(SENT)}"

    (tmp_path / "sent").write_bytes(SENT)
    with ExitStack() as stack:
        lab = stack.enter_context(kernel.lab(NETWORK))
        introduce(lab)
        services = (WWW,)
        network = kernel_network(lab.bridge, NETWORK.probe, services, pytest.fail)
        asyncio.run(main(lab, stack.enter_context(network)))
    for number in range(FLOWS):
        for family in (4, 6):
            assert (tmp_path / f"{family}-{number}").read_bytes() == content(number), number


SENT = random.Random(1).randbytes(1_000_000)


def commands(folder: Path) -> list[tuple[str, ...]]:
    """Return what the client runs: fifty pages over either family, and an upload."""
    parallel = (*CURL, "--parallel", "--parallel-immediate", "--parallel-max", str(FLOWS))
    last = FLOWS - 1
    return [
        (*parallel, "-o", f"{folder}/4-#1", f"http://{WWW.address}/[0-{last}]"),
        (*parallel, "-o", f"{folder}/6-#1", f"http://[{WWW.address6}]:80/[0-{last}]"),
        (*CURL, "-H", "Expect:", "--data-binary", f"@{folder}/sent", f"http://{WWW.address}/"),
    ]
