"""QEMU's command line, word by word."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from jitsu.backends.qemu import Qemu, argv, cmdline
from jitsu.config.image import ImageKind
from jitsu.model import Epoch, Handoff, Mac, Name, NetworkConfig, Service

SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[254])
NETWORK6 = replace(NETWORK, subnet6=IPv6Network("fd77::/64"), gateway6=IPv6Address("fd77::1"))
WWW = Service(
    name=Name("www"),
    dns=("www.jitsu.test",),
    image="/images/www, too.elf",
    address=SUBNET[10],
    mac=Mac(bytes.fromhex("02abcdef0123")),
)
WWW6 = replace(WWW, address6=IPv6Address("fd77:0:0:0::10"))
QEMU = Qemu("/usr/bin/qemu-system-x86_64", "tcg", "nobody")
IP = "ip=10.77.0.10::10.77.0.1:255.255.255.0:www::off"


def test_a_unikernel() -> None:
    assert argv(QEMU, WWW, Epoch(7), NETWORK, ImageKind.PVH) == [
        "/usr/bin/qemu-system-x86_64",
        *("-name", "jitsu-www"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny"),
        *("-runas", "nobody"),
        *("-accel", "tcg"),
        *("-M", "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off"),
        *("-m", "16384k"),
        *("-kernel", "/images/www, too.elf"),
        *("-append", f"{IP} store"),
        *("-chardev", "stdio,id=console,signal=off"),
        *("-device", "isa-debugcon,iobase=0xe9,chardev=console"),
        *("-chardev", "socket,id=qmp,fd=4"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-netdev", "tap,id=net0,fd=3"),
        *("-device", "virtio-net-device,netdev=net0,mac=02:ab:cd:ef:01:23"),
    ]


def after(words: list[str], option: str) -> str:
    """Return what follows an option that is there once."""
    assert words.count(option) == 1
    return words[words.index(option) + 1]


@pytest.mark.parametrize(
    ("qemu", "service", "kind", "option", "value"),
    [
        (replace(QEMU, accel="kvm"), WWW, ImageKind.PVH, "-accel", "kvm"),
        (QEMU, replace(WWW, memory=8 << 20), ImageKind.PVH, "-m", "8192k"),
        (QEMU, replace(WWW, memory=1 << 30), ImageKind.PVH, "-m", "1048576k"),
        (QEMU, replace(WWW, cmdline="a=1 b"), ImageKind.PVH, "-append", f"{IP} store a=1 b"),
    ],
)
def test_what_depends(
    qemu: Qemu, service: Service, kind: ImageKind, option: str, value: str
) -> None:
    words = argv(qemu, service, Epoch(7), NETWORK, kind)
    assert after(words, option) == value
    # And nothing else does.
    first = argv(QEMU, WWW, Epoch(7), NETWORK, ImageKind.PVH)
    assert sum(a != b for a, b in zip(words, first, strict=True)) == 1


def test_it_may_be_called_otherwise() -> None:
    words = argv(QEMU, WWW, Epoch(7), NETWORK, ImageKind.PVH, "jitsu-www@/run/jitsu")
    assert after(words, "-name") == "jitsu-www@/run/jitsu"


def test_who_cannot_become_another_stays() -> None:
    words = argv(replace(QEMU, user=""), WWW, Epoch(7), NETWORK, ImageKind.PVH)
    assert "-runas" not in words
    assert "" not in words


def test_linux() -> None:
    words = argv(QEMU, WWW, Epoch(7), NETWORK, ImageKind.LINUX)
    assert after(words, "-M") == "microvm,isa-serial=off"
    assert after(words, "-append") == IP
    words = argv(replace(QEMU, tsc_khz=2250000), WWW, Epoch(7), NETWORK, ImageKind.LINUX)
    assert after(words, "-append") == f"{IP} tsc_early_khz=2250000"
    words = argv(QEMU, replace(WWW, initrd="/images/initrd"), Epoch(7), NETWORK, ImageKind.LINUX)
    assert after(words, "-initrd") == "/images/initrd"


@pytest.mark.parametrize(
    ("service", "network", "said"),
    [
        (WWW, NETWORK, f"{IP} store"),
        (WWW, NETWORK6, f"{IP} store"),
        (WWW6, NETWORK6, f"{IP} ip6=fd77::10/64,fd77::1 store"),
        (
            replace(WWW6, cmdline="a=1"),
            replace(NETWORK6, subnet6=IPv6Network("fd77::/120")),
            f"{IP} ip6=fd77::10/120,fd77::1 store a=1",
        ),
        (replace(WWW, cmdline=" root=/dev/ram  "), NETWORK, f"{IP} store  root=/dev/ram"),
        (
            replace(WWW, address=IPv4Address("10.1.2.3"), name=Name("a_b-c")),
            replace(NETWORK, subnet=IPv4Network("10.0.0.0/8"), gateway=IPv4Address("10.9.9.9")),
            "ip=10.1.2.3::10.9.9.9:255.0.0.0:a_b-c::off store",
        ),
    ],
)
def test_the_guests_command_line(service: Service, network: NetworkConfig, said: str) -> None:
    assert cmdline(service, Epoch(7), network, ImageKind.PVH) == said
    assert cmdline(service, Epoch(7), network, ImageKind.LINUX) == said.replace(" store", "")


def test_what_is_prepared_does_not_run_and_knows_no_boot() -> None:
    words = argv(QEMU, WWW6, None, NETWORK6, ImageKind.PVH)
    cold = argv(QEMU, WWW6, Epoch(7), NETWORK6, ImageKind.PVH)
    assert [word for word in words if word not in cold] == ["-S"]
    assert len(words) == len(cold) + 1


@pytest.mark.parametrize(("kind", "store"), [(ImageKind.PVH, " store"), (ImageKind.LINUX, "")])
def test_who_imports_is_told_of_which_boot_it_is(kind: ImageKind, store: str) -> None:
    imports = replace(WWW6, handoff=Handoff.IMPORT, cmdline="a=1")
    said = f"{IP} ip6=fd77::10/64,fd77::1{store} handoff=www/7 a=1"
    assert cmdline(imports, Epoch(7), NETWORK6, kind) == said


def test_who_imports_and_is_prepared_asks_the_store() -> None:
    imports = replace(WWW6, handoff=Handoff.IMPORT, cmdline="a=1")
    assert cmdline(imports, None, NETWORK6, ImageKind.PVH) == "store a=1"
