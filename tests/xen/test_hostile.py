"""Guests that mean harm, beside one that does not, on a daemon and a real Xen.

What they do is told in `unikernel/hostile/hostile.c`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jitsu.api import control
from jitsu.core.xenstore.ring import INDICES, NO_ERROR, PROTOCOL
from jitsu.host.xen.gntdev import GrantMapper
from xen import dom0
from xen.test_main_job import CONFIG, as_client, client, daemon, run

IMAGE = Path(__file__).parent / "hostile.elf"
EVIL = """
[[service]]
name = "{harm}"
image = "{image}"
cmdline = "hostile={harm} word=/conduit/{harm}/handoff/1/guest"
boot_timeout = 60
"""
HARMS = {
    "oxenstored": ("store-flood", "net-index", "net-rubbish", "console-index", "console-flood"),
    "jitsu": ("store-index", "store-rubbish", "store-flood", "store-deaf"),
}
"""What is done on which store: what a store does with its own rings is ours only of our own."""
ERROR = 2072
"""Where in a domain's page the store says why it is not served any more (xs_wire.h)."""
TOLD = {"store-index": INDICES, "store-rubbish": PROTOCOL}
"""What our store says of a ring that makes no sense."""


@dataclass(frozen=True)
class Host:
    """A daemon that serves."""

    folder: Path

    def ask(self, verb: str, **arguments: object) -> Any:
        """Ask the daemon, as its command line does."""
        return control.request(self.folder / "run", verb, **arguments)


def traces() -> tuple[list[str], int]:
    """Return what is there of domains, and how many event channels programs of dom0 have."""
    return dom0.left(), Path("/proc/interrupts").read_text().count("evtchn:")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("hostile")
    harms = sorted({harm for some in HARMS.values() for harm in some})
    evil = "".join(EVIL.format(harm=harm, image=IMAGE) for harm in harms)
    (folder / "jitsu.toml").write_text(CONFIG.format(folder=folder) + evil)
    with client(), daemon(folder):
        yield Host(folder)
    assert dom0.left() == []


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(harm, marks=pytest.mark.xen(store=store, timeout=400), id=f"{store}-{harm}")
        for store, harms in HARMS.items()
        for harm in harms
    ],
)
def test_a_guest_that_means_harm_harms_itself_alone(host: Host, harm: str) -> None:
    before = traces()
    assert host.ask("summon", name=harm)["state"] == "awake"
    said = "forged" if harm == "console-flood" else f"hostile: {harm}"
    while said not in host.ask("logs", name=harm):
        pass
    if harm in TOLD:
        domid = int(run("xl", "domid", harm))
        with GrantMapper() as mapper, mapper.map(domid, [1]) as page:
            while page.memory[ERROR] == NO_ERROR:
                run("xenstore-exists", f"/local/domain/{domid}")
            assert page.memory[ERROR] == TOLD[harm]
    # Another guest boots beside it, is given a connection by the store, and serves.
    page_of = ("curl", "-s", "-m", "200", "-o", "/dev/null", "-w", "%{http_code}")
    assert as_client(*page_of, "http://10.77.0.10/") == "200"
    assert host.ask("stop", name="www")["state"] == "asleep"
    assert host.ask("stop", name=harm)["state"] == "asleep"
    assert traces() == before
