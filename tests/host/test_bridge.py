"""The bridge, made for real in a namespace without a name."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from socket import AF_INET6, SOCK_DGRAM, socket
from typing import Any

import pytest
from pyroute2 import IPRoute

from host import kernel
from host.kernel import BRIDGE, NETWORK, SUBNET
from jitsu.errors import HostError
from jitsu.host.bridge import bridge
from jitsu.host.netns import UPLINK
from jitsu.model import mac_of

pytestmark = kernel.marks()
ALONE = replace(NETWORK, uplink="")
NETWORK6 = replace(
    NETWORK, subnet6=IPv6Network("fd77::/64"), gateway6=IPv6Address("fd77::1"), uplink=""
)


def link(name: str) -> dict[str, Any]:
    with IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname=name)
        (found,) = ipr.link("get", index=index)
        return {"up": bool(found["flags"] & 1), "index": index} | dict(found["attrs"])


def addresses(name: str, family: int = 2) -> set[str]:
    with IPRoute() as ipr:
        index = link(name)["index"]
        dump = ipr.addr("dump", index=index, family=family)
        found = {f"{dict(a['attrs'])['IFA_ADDRESS']}/{a['prefixlen']}" for a in dump}
        return {address for address in found if not address.startswith("fe80:")}


@contextmanager
def made(name: str, kind: str, **settings: Any) -> Iterator[int]:
    """Have a link that somebody else has made."""
    with IPRoute() as ipr:
        ipr.link("add", ifname=name, kind=kind, **settings)
        (index,) = ipr.link_lookup(ifname=name)
        yield int(index)
        ipr.link("del", index=index)


def test_made_and_undone() -> None:
    with kernel.host():
        before = kernel.interfaces()
        with bridge(NETWORK) as up:
            assert (up.name, up.index) == (BRIDGE, link(BRIDGE)["index"])
            assert link(BRIDGE)["up"]
            assert link(BRIDGE)["IFLA_ADDRESS"] == mac_of(f"bridge {BRIDGE}").hex(":")
            assert addresses(BRIDGE) == {"10.77.0.1/24"}
            assert link(UPLINK)["IFLA_MASTER"] == up.index
        assert kernel.interfaces() == before
        assert "IFLA_MASTER" not in link(UPLINK)


def test_the_host_takes_no_router_from_its_own_bridge() -> None:
    setting = Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")
    with kernel.host(), bridge(NETWORK):
        assert setting.read_text() == "0\n"
    with kernel.host(), made(BRIDGE, "bridge"), bridge(NETWORK):
        assert setting.read_text() == "1\n", "a bridge that is there is left as it was"


def test_the_host_has_an_ipv6_address_at_once() -> None:
    """Nobody has to wait until it is sure that nobody else has it."""
    with kernel.host():
        before = kernel.interfaces()
        with bridge(NETWORK6), socket(AF_INET6, SOCK_DGRAM) as server:
            server.bind(("fd77::1", 53))
            assert addresses(BRIDGE, AF_INET6) == {"fd77::1/64"}
            assert addresses(BRIDGE) == {"10.77.0.1/24"}
        assert kernel.interfaces() == before


@pytest.mark.parametrize("theirs", [(), ("fd78::1",), ("fd77::1",)])
def test_an_ipv6_address_is_added_and_taken_away(theirs: tuple[str, ...]) -> None:
    """What somebody else has given to his bridge stays, be it the same one."""
    before = {f"{address}/64" for address in theirs}
    with kernel.host(), made(BRIDGE, "bridge", state="up") as index:
        with IPRoute() as ipr:
            for address in theirs:
                ipr.addr("add", index=index, address=address, prefixlen=64)
        with bridge(NETWORK6):
            assert addresses(BRIDGE, AF_INET6) == {"fd77::1/64"} | before
        assert addresses(BRIDGE, AF_INET6) == before
        assert addresses(BRIDGE) == set()


def test_an_ipv6_address_of_a_killed_daemon_goes_in_the_end(tmp_path: Path) -> None:
    record = tmp_path / "bridge"
    with kernel.host(), made(BRIDGE, "bridge", state="up"):
        first = bridge(NETWORK6, record)
        first.__enter__()  # and nobody leaves it
        with bridge(ALONE, record):
            assert addresses(BRIDGE, AF_INET6) == set()
        first.__exit__(None, None, None)


def test_the_record_of_an_earlier_version(tmp_path: Path) -> None:
    """It knew nothing of IPv6."""
    record = tmp_path / "bridge"
    record.write_text('{"bridge": "", "index": 0, "address": "", "uplink": "", "raised": false}')
    with kernel.host(), bridge(NETWORK6, record):
        assert addresses(BRIDGE, AF_INET6) == {"fd77::1/64"}


def test_a_host_without_ipv6() -> None:
    with kernel.host():
        before = kernel.interfaces()
        for conf in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{conf}/disable_ipv6").write_text("1")
        with pytest.raises(HostError, match=r"IPv6 is disabled here; .*take \[network\] subnet6"):
            bridge(NETWORK6).__enter__()
        assert kernel.interfaces() == before


def test_without_an_uplink() -> None:
    with kernel.host(), bridge(ALONE):
        assert "IFLA_MASTER" not in link(UPLINK)


def test_undone_though_something_fails_inside() -> None:
    with kernel.host():
        before = kernel.interfaces()
        with pytest.raises(ZeroDivisionError), bridge(NETWORK):
            raise ZeroDivisionError
        assert kernel.interfaces() == before


@pytest.mark.parametrize("state", ["up", "down"])
def test_a_bridge_that_is_there_is_left_as_it_was(state: str) -> None:
    with kernel.host(), made(BRIDGE, "bridge", address="02:00:00:00:00:01", state=state) as index:
        with IPRoute() as ipr:
            ipr.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        with bridge(NETWORK) as up:
            assert up.index == index
            assert link(BRIDGE)["up"]
            assert addresses(BRIDGE) == {"192.0.2.1/24", "10.77.0.1/24"}
        assert addresses(BRIDGE) == {"192.0.2.1/24"}
        assert link(BRIDGE)["up"] == (state == "up")
        assert "IFLA_MASTER" not in link(UPLINK)


def test_what_is_there_already_stays() -> None:
    """An address and a port that somebody else has given to the bridge."""
    with kernel.host(), made(BRIDGE, "bridge") as index:
        with IPRoute() as ipr:
            ipr.addr("add", index=index, address="10.77.0.1", prefixlen=24)
            ipr.link("set", index=link(UPLINK)["index"], master=index)
        with bridge(NETWORK):
            pass
        assert addresses(BRIDGE) == {"10.77.0.1/24"}
        assert link(UPLINK)["IFLA_MASTER"] == index


def test_a_bridge_that_goes_meanwhile() -> None:
    with kernel.host(), bridge(NETWORK) as up, IPRoute() as ipr:
        ipr.link("del", index=up.index)


def test_not_a_bridge() -> None:
    with kernel.host(), made(BRIDGE, "veth", peer={"ifname": "tcfg-peer"}):
        with pytest.raises(HostError) as caught, bridge(NETWORK):
            pytest.fail("it is")
        what = "is an interface but no bridge; choose another [network] bridge"
        assert str(caught.value) == f"{BRIDGE} {what}"
        assert addresses(BRIDGE) == set()


def test_an_uplink_that_is_missing() -> None:
    with kernel.host():
        before = kernel.interfaces()
        with pytest.raises(HostError) as caught, bridge(replace(NETWORK, uplink="eth7")):
            pytest.fail("it is there")
        assert str(caught.value) == "uplink eth7 is no interface of this host; see `ip link`"
        assert kernel.interfaces() == before


def test_an_uplink_that_is_another_bridges_port() -> None:
    with kernel.host(), made("tcfg1", "bridge") as other:
        before = kernel.interfaces()
        with IPRoute() as ipr:
            ipr.link("set", index=link(UPLINK)["index"], master=other)
        with pytest.raises(HostError) as caught, bridge(NETWORK):
            pytest.fail("it was taken")
        what = "is already a port of another bridge; take it off first"
        assert str(caught.value) == f"uplink {UPLINK} {what}"
        assert kernel.interfaces() == before
        assert link(UPLINK)["IFLA_MASTER"] == other


def test_the_bridge_of_a_killed_daemon_goes_in_the_end() -> None:
    with kernel.host():
        before = kernel.interfaces()
        first = bridge(NETWORK)
        first.__enter__()  # and nobody leaves it
        with bridge(NETWORK):
            pass
        assert kernel.interfaces() == before
        first.__exit__(None, None, None)


def test_what_a_killed_daemon_has_added_to_a_bridge_goes_in_the_end(tmp_path: Path) -> None:
    """Though its heir is to use another address, and no uplink."""
    record = tmp_path / "bridge"
    heirs = replace(ALONE, gateway=SUBNET[2])
    with kernel.host(), made(BRIDGE, "bridge", state="down") as index:
        with IPRoute() as ipr:
            ipr.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        first = bridge(NETWORK, record)
        first.__enter__()  # and nobody leaves it
        assert addresses(BRIDGE) == {"192.0.2.1/24", "10.77.0.1/24"}
        with bridge(heirs, record):
            assert addresses(BRIDGE) == {"192.0.2.1/24", "10.77.0.2/24"}
            assert "IFLA_MASTER" not in link(UPLINK)
        assert addresses(BRIDGE) == {"192.0.2.1/24"}
        assert not link(BRIDGE)["up"]
        assert list(tmp_path.iterdir()) == []
        first.__exit__(None, None, None)


def test_a_bridge_that_only_has_the_name_of_the_killed_daemons_is_left_alone(
    tmp_path: Path,
) -> None:
    record = tmp_path / "bridge"
    with kernel.host():
        with made(BRIDGE, "bridge"):
            first = bridge(NETWORK, record)
            first.__enter__()
        with made(BRIDGE, "bridge") as index:
            with IPRoute() as ipr:
                ipr.addr("add", index=index, address="10.77.0.1", prefixlen=24)
            with bridge(NETWORK, record):
                pass
            assert addresses(BRIDGE) == {"10.77.0.1/24"}
            first.__exit__(None, None, None)


@pytest.mark.parametrize("text", ["", "[]", '{"colour": "red"}'])
def test_a_record_that_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "bridge").write_text(text)
    with kernel.host():
        before = kernel.interfaces()
        with pytest.raises(HostError, match="cannot be read; delete it"):
            bridge(NETWORK, tmp_path / "bridge").__enter__()
        assert kernel.interfaces() == before


def test_nothing_is_added_that_cannot_be_written_down(tmp_path: Path) -> None:
    with kernel.host():
        before = kernel.interfaces()
        with pytest.raises(HostError, match=r"set \[host\] run to another folder"):
            bridge(NETWORK, tmp_path / "nowhere" / "bridge").__enter__()
        assert kernel.interfaces() == before
