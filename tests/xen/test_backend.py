"""Our toolstack on a real Xen: the contract, and what happens when something is wrong."""

import asyncio
import gc
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from jitsu import store
from jitsu.backends.xen import tag
from jitsu.errors import BootError, HostError
from jitsu.host.link import KernelNetwork
from jitsu.host.xen import domain
from jitsu.host.xen.libxc import Xen
from jitsu.model import Disk, Epoch, Service, StopMode
from jitsu.testing import backend_contract
from jitsu.testing.backend_contract import (
    Case,
    Fate,
    Seen,
    check_cannot_start,
    check_death,
    check_life,
    check_pause,
    check_prepare,
    check_stop_twice,
    check_stop_while_booting,
)
from xen import dom0

pytestmark = pytest.mark.xen(timeout=600)
WWW = dom0.service()


def test_xen_passes_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_contract, "PATIENCE", dom0.PATIENCE)
    with dom0.network(WWW) as network:

        @asynccontextmanager
        async def make(fate: Fate) -> AsyncIterator[Case]:
            service = WWW
            if fate is Fate.DIES:
                service = replace(service, cmdline="panic_ms=1")
            if fate is Fate.CANNOT_START:
                service = replace(service, image=str(tmp_path / "nothing.elf"))
            async with dom0.backend(tmp_path, service) as (backend, _):
                yield Case(backend, network, service, dom0.left)

        async def stories() -> None:
            await check_life(make, StopMode.DESTROY)
            await check_stop_twice(make)
            await check_stop_while_booting(make)
            await check_pause(make)
            await check_prepare(make)
            await check_death(make)
            await check_cannot_start(make)

        asyncio.run(stories())


def refused(tmp_path: Path, service: Service) -> str:
    """Return why a service cannot be booted; nothing is left of it."""

    async def main(network: KernelNetwork) -> str:
        async with dom0.backend(tmp_path, service) as (backend, _):
            with pytest.raises(BootError) as caught:
                await backend.boot(service, Epoch(1), network, Seen())
            assert dom0.left() == []
            return str(caught.value)

    with dom0.network(service) as network:
        return asyncio.run(main(network))


def test_an_image_that_is_no_kernel(tmp_path: Path) -> None:
    image = tmp_path / "text.elf"
    image.write_text("no kernel")
    assert "is neither an ELF file nor a Linux bzImage" in refused(
        tmp_path, replace(WWW, image=str(image))
    )


def test_an_image_whose_code_is_not_there(tmp_path: Path) -> None:
    image = tmp_path / "short.elf"
    image.write_bytes(dom0.IMAGE.read_bytes()[:8192])
    assert "cannot be built" in refused(tmp_path, replace(WWW, image=str(image)))


def test_an_image_that_wants_more_memory_than_there_is(tmp_path: Path) -> None:
    image = tmp_path / "vast.elf"
    data = bytearray(dom0.IMAGE.read_bytes())
    second_load = 64 + 56  # elf(5): 64 bytes, then program headers of 56 each
    data[second_load + 40 : second_load + 48] = (1 << 40).to_bytes(8, "little")  # p_memsz
    image.write_bytes(data)
    assert "vast.elf cannot be built: xc_dom_" in refused(tmp_path, replace(WWW, image=str(image)))


def test_a_linux_that_is_cut_off(tmp_path: Path) -> None:
    image = tmp_path / "half.bz"
    image.write_bytes(Path("/boot/vmlinuz-domu").read_bytes()[: 1 << 20])
    linux = replace(WWW, image=str(image), memory=128 << 20)
    assert "half.bz cannot be built: xc_dom_" in refused(tmp_path, linux)


def test_what_went_wrong_is_told_of_the_call_in_which_it_did() -> None:
    xen = Xen()
    nobody = domain.Domain(32000, 0, 0)
    plan = domain.Plan(bytes(16), domain.Kind.PVH, 16 << 20, b"")
    with pytest.raises(HostError, match="xc_dom_parse_image: "):
        domain.build(xen, nobody, plan, b"no kernel" * 1000)
    with pytest.raises(HostError) as caught:
        domain.pause(xen, nobody.domid)
    assert str(caught.value) == "xc_domain_pause: No such process"
    xen.close()


def test_more_memory_than_xen_has(tmp_path: Path) -> None:
    said = refused(tmp_path, replace(WWW, memory=3600 << 20))
    assert "not enough memory: Xen has" in said
    assert "it wants 3600 MiB" in said


def test_a_domain_that_somebody_destroys(tmp_path: Path) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path, WWW) as (backend, _):
            instance = await backend.boot(WWW, Epoch(1), network, Seen())
            await backend.call(domain.destroy, instance.domain.domid)
            async with asyncio.timeout(dom0.PATIENCE):
                gone = await instance.gone
            assert not gone.clean
            assert "somebody has destroyed the domain" in gone.reason
            assert dom0.left() == []

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_what_a_killed_daemon_has_left_is_ended_by_its_heir_and_nobody_elses(
    tmp_path: Path,
) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path / "other", WWW) as (other, _):
            kept = await other.boot(WWW, Epoch(1), network, Seen())
            left = domain.Plan(tag(str(tmp_path)) + bytes(6), domain.Kind.PVH, 16 << 20, b"")
            orphan = await other.call(domain.create, left)
            async with dom0.backend(tmp_path, WWW) as (heir, _):
                assert await heir.call(lambda xen: xen.domain(orphan.domid)) is None
                assert not kept.gone.done()
            kept.stop(StopMode.DESTROY)
            await kept.gone
        assert dom0.left() == []

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_a_prepared_domain_boots_when_it_is_asked_to(tmp_path: Path) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path, WWW) as (backend, _):
            first = await backend.prepare(WWW, network)
            seen = Seen()
            instance = await first.boot(Epoch(1), seen)
            spare = await backend.prepare(WWW, network)
            async with asyncio.timeout(dom0.PATIENCE):
                await seen.framed.wait()
            assert not spare.gone.done(), "it is prepared while another guest runs"
            instance.stop(StopMode.DESTROY)
            await instance.gone
            assert not first.gone.done(), "it has booted, and has not gone as a prepared one"
            spare.discard()
            await spare.gone
            assert dom0.left() == []
            with pytest.raises(BootError, match="has gone"):
                await spare.boot(Epoch(2), Seen())

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_a_domain_that_dies_while_it_is_built(tmp_path: Path) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path, WWW) as (backend, _):
            before = {info.domid for info in await backend.call(lambda xen: [*xen.domains()])}

            class Killer(Seen):
                """Destroys the domain as soon as there is one."""

                def stage(self, name: str) -> None:
                    super().stage(name)
                    if name == "created":
                        xen = Xen()
                        new = {info.domid for info in xen.domains()} - before
                        domain.destroy(xen, new.pop())
                        xen.close()

            with pytest.raises(BootError):
                await backend.boot(WWW, Epoch(1), network, Killer())
            assert dom0.left() == []
            instance = await backend.boot(WWW, Epoch(2), network, Seen())
            instance.stop(StopMode.DESTROY)
            await instance.gone

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_netback_that_makes_no_interface(tmp_path: Path) -> None:
    subprocess.run(["modprobe", "-r", "xen-netback"], check=True)
    try:
        said = refused(tmp_path, WWW)
    finally:
        subprocess.run(["modprobe", "xen-netback"], check=True)
    assert "netback has made no vif" in said
    assert "is xen-netback loaded?" in said


def test_a_store_that_has_gone_and_is_back(tmp_path: Path) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.Detour(tmp_path / "socket") as detour:
            connect = partial(store.connect, detour.path)
            async with dom0.backend(tmp_path, WWW, connect=connect) as (backend, _):
                instance = await backend.boot(WWW, Epoch(1), network, Seen())
                await detour.close()
                with pytest.raises(BootError, match="XenStore"):
                    await backend.boot(WWW, Epoch(2), network, Seen())
                instance.stop(StopMode.DESTROY)
                await instance.gone
                await detour.open()
                async with asyncio.timeout(dom0.PATIENCE):
                    while dom0.left():  # noqa: ASYNC110  (dom0 and Xen are no part of this loop)
                        await asyncio.sleep(0.1)
                instance = await backend.boot(WWW, Epoch(3), network, Seen())
                instance.stop(StopMode.DESTROY)
                await instance.gone
                assert dom0.left() == []

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_a_backend_that_cannot_be_opened_lets_go_of_all_it_had(tmp_path: Path) -> None:
    device, away = Path("/dev/xen/gntdev"), Path("/dev/xen/away")

    async def main() -> None:
        tasks = asyncio.all_tasks()
        with pytest.raises(HostError, match="gntdev"):
            async with dom0.backend(tmp_path, WWW):
                pytest.fail("it cannot read consoles")
        assert asyncio.all_tasks() == tasks

    device.rename(away)
    try:
        asyncio.run(main())
    finally:
        away.rename(device)


def test_what_a_dead_guest_is_owed_is_not_taken_from_the_next(tmp_path: Path) -> None:
    async def main(network: KernelNetwork) -> None:
        async with dom0.Detour(tmp_path / "socket") as detour:
            connect = partial(store.connect, detour.path)
            async with dom0.backend(tmp_path, WWW, connect=connect) as (backend, _):
                first = await backend.boot(WWW, Epoch(1), network, Seen())
                await detour.close()
                first.stop(StopMode.DESTROY)
                await first.gone
                await detour.open()
                second = None
                while second is None:
                    with suppress(BootError):
                        second = await backend.boot(WWW, Epoch(2), network, Seen())
                home = f"/local/domain/{first.domain.domid}"
                while any(line.startswith(home) for line in dom0.left()):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                async with dom0.DOM0() as client:
                    assert await client.read(b"/conduit/www/epoch") == b"2"
                second.stop(StopMode.DESTROY)
                await second.gone
                assert dom0.left() == []

    with dom0.network(WWW) as network:
        asyncio.run(main(network))


def test_a_further_interface_whose_bridge_is_missing(tmp_path: Path) -> None:
    said = refused(tmp_path, replace(WWW, nics=("nobr0",)))
    assert said == "bridge nobr0 is missing; make it, or take it out of nics"


def test_linux_with_a_disk_and_two_interfaces(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"written by dom0".ljust(1 << 20, b"\0"))
    linux = replace(
        WWW,
        image="/boot/vmlinuz-domu",
        initrd="/boot/domu.cpio",
        memory=128 << 20,
        cmdline="console=hvc0 mitigations=off",
        disks=(Disk(str(disk)),),
        nics=("jtest1",),
    )

    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path, linux) as (backend, _):
            instance = await backend.boot(linux, Epoch(1), network, Seen())
            domid = instance.domain.domid
            assert dom0.ports("jtest1") == {f"vif{domid}.1"}
            assert dom0.loops() == [f"{disk}\n"]
            async with asyncio.timeout(4 * dom0.PATIENCE):
                while "DOMU-READY" not in backend.console(linux):
                    assert not instance.gone.done()
                    await asyncio.sleep(0.2)
            async with dom0.DOM0() as client:
                path = b"/local/domain/0/backend/vbd/%d/51712/state" % domid
                assert await client.read(path) == b"4", "the guest has the disk"
            instance.stop(StopMode.DESTROY)
            await instance.gone
            assert dom0.left() == []
            assert dom0.loops() == []

    subprocess.run(["modprobe", "loop"], check=True)
    subprocess.run(["ip", "link", "add", "jtest1", "type", "bridge"], check=True)
    try:
        with dom0.network(linux) as network:
            asyncio.run(main(network))
    finally:
        subprocess.run(["ip", "link", "delete", "jtest1"], check=True)


def timers() -> int:
    """Return how many timers event loops have."""
    return sum(isinstance(one, asyncio.TimerHandle) for one in gc.get_objects())


def test_a_console_that_never_ends_is_read_at_its_rate_however_often_it_calls(
    tmp_path: Path,
) -> None:
    image = Path(__file__).parent / "hostile.elf"
    evil = replace(WWW, image=str(image), cmdline="hostile=console-flood")

    async def main(network: KernelNetwork) -> None:
        async with dom0.backend(tmp_path, evil) as (backend, _):
            before = timers()
            instance = await backend.boot(evil, Epoch(1), network, Seen())
            async with asyncio.timeout(dom0.PATIENCE):
                while instance.console.written < 64 << 10:  # noqa: ASYNC110  (Xen tells no event)
                    await asyncio.sleep(0.01)
            # One for the next reading; the others are of this test.
            assert timers() - before <= 4

    with dom0.network(evil) as network:
        asyncio.run(main(network))
    assert dom0.left() == []
