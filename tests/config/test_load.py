"""What comes of a configuration that is right, and that no file does worse than be refused."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.elf import bzimage, elf64, xen_note
from jitsu import config
from jitsu.config.hypervisor import is_dom0
from jitsu.errors import ConfigError
from jitsu.model import (
    Answer,
    Config,
    DirectoryConfig,
    Endpoint,
    Handoff,
    HostConfig,
    Name,
    NetworkConfig,
    Ready,
    ReadyOnDelay,
    ReadyOnFrame,
    ReadyOnTcp,
    Service,
    StopMode,
    Terms,
    mac_of,
)

WWW = '[[service]]\nname = "www"\nimage = "www.elf"\n'
FULL = """\
[directory]
listen = ["10.1.0.9:53", "[fd77::1]:5353", "192.0.2.1:53"]
ttl = 5
forward = ["9.9.9.9:53"]
summon_from = ["192.0.2.0/24", "fd00::/8"]
[network]
bridge = "br0"
subnet = "10.1.0.0/16"
subnet6 = "fd77::/64"
uplink = "eth0"
[host]
memory = "64MiB"
state = "/state"
run = "/run/here"
[[service]]
name = "www"
dns = ["WWW.jitsu.test.", "www.jitsu.test", "jitsu.test"]
image = "linux"
backend = "qemu"
address = "10.1.255.254"
address6 = "fd77::10"
memory = "64 MiB"
cmdline = "a=1\\tb"
initrd = "initrd"
handoff = "none"
answer = "when-ready"
ready = "tcp:80"
idle_after = 0.5
boot_timeout = 3
stop = "shutdown"
warm = 0
"""


def load(folder: Path, text: str, leases: dict[Name, IPv4Address] | None = None) -> Config:
    path = folder / "jitsu.toml"
    path.write_text(text)
    return config.load(path, leases)


def test_what_is_not_said(folder: Path) -> None:
    loaded = load(folder, WWW)
    www = loaded.services[0]
    subnet = IPv4Network("10.77.0.0/24")
    assert loaded == Config(
        DirectoryConfig((Endpoint(subnet[1], 53),), (subnet,), 60, ()),
        NetworkConfig("jitsu0", subnet, None, subnet[1], subnet[254], ""),
        HostConfig(2 << 30, "/var/lib/jitsu", "/run/jitsu"),
        (www,),
    )
    image = str(folder / "www.elf")
    assert www == Service(
        Name("www"), (), image, www.address, mac_of("www"), backend="qemu", handoff=Handoff.REPLAY
    )
    assert www.address in list(subnet.hosts())


def test_all_that_can_be_said(folder: Path) -> None:
    (folder / "linux").write_bytes(bzimage())
    (folder / "initrd").write_bytes(b"")
    loaded = load(folder, FULL)
    gateway = IPv4Address("10.1.0.9")
    listen = (
        Endpoint(gateway, 53),
        Endpoint(IPv6Address("fd77::1"), 5353),
        Endpoint(IPv4Address("192.0.2.1"), 53),
    )
    near = (IPv4Network("192.0.2.0/24"), IPv6Network("fd00::/8"))
    assert loaded.directory == DirectoryConfig(
        listen, near, 5, (Endpoint(IPv4Address("9.9.9.9"), 53),)
    )
    subnet, subnet6 = IPv4Network("10.1.0.0/16"), IPv6Network("fd77::/64")
    probe = IPv4Address("10.1.255.253")
    gateway6 = IPv6Address("fd77::1")
    assert loaded.network == NetworkConfig("br0", subnet, subnet6, gateway, probe, "eth0", gateway6)
    assert loaded.host == HostConfig(64 << 20, "/state", "/run/here")
    assert loaded.services == (
        Service(
            name=Name("www"),
            dns=("www.jitsu.test", "jitsu.test"),
            image=str(folder / "linux"),
            address=IPv4Address("10.1.255.254"),
            mac=mac_of("www"),
            address6=IPv6Address("fd77::10"),
            backend="qemu",
            memory=64 << 20,
            cmdline="a=1\tb",
            initrd=str(folder / "initrd"),
            handoff=Handoff.NONE,
            answer=Answer.WHEN_READY,
            ready=ReadyOnTcp(80),
            idle_after=0.5,
            boot_timeout=3.0,
            stop=StopMode.SHUTDOWN,
        ),
    )


def test_the_longest_folder_that_a_socket_may_be_in(folder: Path) -> None:
    run = "/run/" + "x" * 87
    assert load(folder, WWW + f'[host]\nrun = "{run}"').host.run == run
    assert len(f"{run}/xenstored.sock") == 107


@pytest.mark.parametrize(
    ("written", "ready"),
    [
        ("frame", ReadyOnFrame()),
        ("tcp:65535", ReadyOnTcp(65535)),
        ("delay:0", ReadyOnDelay(0.0)),
        ("delay:2.5", ReadyOnDelay(2.5)),
    ],
)
def test_ready(folder: Path, written: str, ready: Ready) -> None:
    assert load(folder, WWW + f'ready = "{written}"').services[0].ready == ready


@pytest.mark.parametrize(
    ("written", "size"),
    [("8388608B", 8 << 20), ("8192KiB", 8 << 20), ("8MiB", 8 << 20), ("1GiB", 1 << 30)],
)
def test_memory(folder: Path, written: str, size: int) -> None:
    assert load(folder, WWW + f'memory = "{written}"').services[0].memory == size


def test_who_may_summon_when_it_is_not_said(folder: Path) -> None:
    text = '[network]\nsubnet6 = "fd77::/64"\n' + WWW
    near = (IPv4Network("10.77.0.0/24"), IPv6Network("fd77::/64"))
    assert load(folder, text).directory.summon_from == near
    assert load(folder, "[directory]\nsummon_from = []\n" + WWW).directory.summon_from == ()


@pytest.mark.parametrize(
    ("listen", "gateway6"),
    [
        ("", "fd77::1"),
        ("[directory]\nlisten = ['10.77.0.1:53']\n", "fd77::1"),
        ("[directory]\nlisten = ['[fd78::9]:53']\n", "fd77::1"),
        ("[directory]\nlisten = ['[fd77::9]:53', '[fd77::8]:53']\n", "fd77::9"),
    ],
)
def test_the_host_has_an_ipv6_address_too(folder: Path, listen: str, gateway6: str) -> None:
    """Where it serves DNS, or else the first; where nothing else is said it serves DNS there."""
    loaded = load(folder, listen + "[network]\nsubnet6 = 'fd77::/64'\n" + WWW)
    assert loaded.network.gateway6 == IPv6Address(gateway6)
    if not listen:
        own = (IPv4Address("10.77.0.1"), IPv6Address("fd77::1"))
        assert loaded.directory.listen == tuple(Endpoint(address, 53) for address in own)


def test_a_service_has_no_ipv6_address_unless_it_is_said(folder: Path) -> None:
    loaded = load(folder, "[network]\nsubnet6 = 'fd77::/64'\n" + WWW)
    assert loaded.services[0].address6 is None


def test_an_image_beside_the_file_goes_before_one_that_jitsu_carries(folder: Path) -> None:
    (folder / "hello.elf").write_bytes(elf64())
    text = WWW.replace("www.elf", "hello.elf")
    assert load(folder, text).services[0].image == str(folder / "hello.elf")


def test_an_image_elsewhere(folder: Path) -> None:
    elsewhere = folder / "below" / "other.elf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(elf64())
    for written in ("below/other.elf", str(elsewhere)):
        loaded = load(folder, WWW.replace("www.elf", written))
        assert loaded.services[0].image == str(elsewhere)


# Addresses that are allotted.


def services(*names: str, subnet: str = "10.77.0.0/29", **fixed: str) -> str:
    text = f'[network]\nsubnet = "{subnet}"\n'
    for name in names:
        text += f'[[service]]\nname = "{name}"\nimage = "www.elf"\n'
        text += f'address = "{fixed[name]}"\n' if name in fixed else ""
    return text


def addresses(loaded: Config) -> dict[Name, IPv4Address]:
    return {service.name: service.address for service in loaded.services}


def test_addresses_are_the_same_every_time(folder: Path) -> None:
    text = services("a", "b", "c", "d")
    assert addresses(load(folder, text)) == addresses(load(folder, text))


def test_an_address_does_not_depend_on_who_else_is_there(folder: Path) -> None:
    alone = addresses(load(folder, services("a", subnet="10.77.0.0/16")))
    with_others = addresses(load(folder, services("c", "a", "b", subnet="10.77.0.0/16")))
    assert alone.items() <= with_others.items()


def test_a_lease_is_kept_whoever_comes_before(folder: Path) -> None:
    """Each address in turn is leased to the last of four services."""
    for host in range(2, 7):
        lease = IPv4Address(f"10.77.0.{host}")
        loaded = load(folder, services("a", "b", "c", "d"), {Name("d"): lease})
        assert addresses(loaded)[Name("d")] == lease
        assert loaded.network.probe != lease
        assert len(set(addresses(loaded).values())) == 4


@pytest.mark.parametrize(
    "lease", ["10.77.0.0", "10.77.0.7", "10.77.0.1", "10.77.0.3", "10.78.0.4", "0.0.0.0"]
)
def test_a_lease_that_cannot_be_kept(folder: Path, lease: str) -> None:
    """Of the network, of all, of the host, of another service, of another subnet."""
    text = services("a", "b", b="10.77.0.3")
    loaded = load(folder, text, {Name("a"): IPv4Address(lease)})
    assert addresses(loaded)[Name("a")] != IPv4Address(lease)
    assert addresses(loaded) == addresses(load(folder, text))


def test_what_is_said_goes_before_a_lease(folder: Path) -> None:
    loaded = load(folder, services("a", a="10.77.0.3"), {Name("a"): IPv4Address("10.77.0.4")})
    assert addresses(loaded) == {"a": IPv4Address("10.77.0.3")}


names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=8)
hosts = st.integers(0, 19).map(lambda i: IPv4Address("10.77.0.0") + i)


@given(names=names, leases=st.dictionaries(st.sampled_from("abcdefgh").map(Name), hosts), at=hosts)
def test_no_two_have_one_address(
    shared: Path, names: list[str], leases: dict[Name, IPv4Address], at: IPv4Address
) -> None:
    """Fourteen addresses, at most eight of services, one the host's, one that of probes."""
    listen = f'[directory]\nlisten = ["{at}:53"]\n'
    text = listen + services(*names, subnet="10.77.0.0/28")
    if int(at) % 16 in (0, 15) and at in IPv4Network("10.77.0.0/28"):
        return
    loaded = load(shared, text, leases)
    given = [*addresses(loaded).values(), loaded.network.gateway, loaded.network.probe]
    assert len(set(given)) == len(names) + 2
    assert set(given) <= set(loaded.network.subnet.hosts())
    again = load(shared, text, leases | addresses(loaded))
    assert again == loaded


# Any file at all.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "www.elf").write_bytes(elf64())
    return folder


def attempt(folder: Path, data: bytes) -> None:
    """Load what may be wrong: the mistakes are one line each."""
    path = folder / "jitsu.toml"
    path.write_bytes(data)
    try:
        config.load(path)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        return
    assert mistakes
    for mistake in mistakes:
        assert mistake.startswith(f"{path}:")
        assert len(mistake.splitlines()) == 1


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file(shared: Path, data: bytes) -> None:
    attempt(shared, data)


LINES = FULL.splitlines()
values = st.sampled_from(
    ["3", "-1", "1e400", "true", "''", "'x'", "[]", "[3]", "['x']", "{}", "{a=1}", "1979-05-27"]
) | st.text(max_size=8).map(lambda text: f"'{text}'")


@given(
    changes=st.lists(st.tuples(st.integers(0, len(LINES) - 1), values), min_size=1, max_size=4),
    dropped=st.sets(st.integers(0, len(LINES) - 1), max_size=3),
)
def test_a_file_with_other_values(
    shared: Path, changes: list[tuple[int, str]], dropped: set[int]
) -> None:
    lines = list(LINES)
    for at, value in changes:
        key, equals, _ = lines[at].partition(" = ")
        lines[at] = f"{key}{equals}{value}" if equals else value
    kept = [line for i, line in enumerate(lines) if i not in dropped]
    attempt(shared, "\n".join(kept).encode())


@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(FULL)), st.integers(0, 12), st.text(max_size=3)), max_size=3
    )
)
def test_a_file_that_was_cut_and_pasted(shared: Path, cuts: list[tuple[int, int, str]]) -> None:
    text = FULL
    for at, length, pasted in cuts:
        text = text[:at] + pasted + text[at + length :]
    attempt(shared, text.encode())


@pytest.mark.parametrize(
    ("dom0", "backend", "given"), [(True, "xen", ""), (False, "qemu", ""), (True, "qemu", "qemu")]
)
def test_auto_is_xen_where_the_host_controls_it(
    tmp_path: Path, dom0: bool, backend: str, given: str
) -> None:
    (tmp_path / "www.elf").write_bytes(elf64())
    file = tmp_path / "jitsu.toml"
    file.write_text(WWW + (f"backend = '{given}'\n" if given else ""))
    assert config.load(file, dom0=dom0).services[0].backend == backend


@pytest.mark.parametrize("handoff", ["auto", "import", "replay"])
def test_linux_imports_if_it_is_asked_to(tmp_path: Path, handoff: str) -> None:
    """Nothing in a bzImage says whether what it starts can."""
    (tmp_path / "www.elf").write_bytes(bzimage())
    (www,) = load(tmp_path, WWW + f"handoff = '{handoff}'\n").services
    if handoff == "import":
        assert www.handoff is Handoff.IMPORT
        assert www.terms == Terms(1024, 32 << 10, window_scale=7, sack=True, timestamps=True)
    else:
        assert (www.handoff, www.terms) == (Handoff.REPLAY, None)


@pytest.mark.parametrize(
    ("more", "dom0", "said"),
    [
        (
            "warm = 1",
            False,
            "5: warm: a Linux that imports finds its boot on its command line, which what is "
            "prepared has before there is a boot; leave it out, or use splice",
        ),
        (
            "",
            True,
            "4: handoff: Linux imports by the store link, which domains of Xen have not; "
            "use splice or replay",
        ),
    ],
)
def test_a_linux_that_cannot_import(tmp_path: Path, more: str, dom0: bool, said: str) -> None:
    (tmp_path / "www.elf").write_bytes(bzimage())
    file = tmp_path / "jitsu.toml"
    file.write_text(f"{WWW.strip()}\nhandoff = 'import'\n{more}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file, dom0=dom0)
    assert caught.value.mistakes == [f"{file}:{said}"]


def test_on_xen_only_linux_suspends(tmp_path: Path) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text(WWW + "stop = 'suspend'\n")
    (tmp_path / "www.elf").write_bytes(elf64(xen_note(6, data=b"linux") + xen_note()))
    assert config.load(file, dom0=True).services[0].stop is StopMode.SUSPEND
    (tmp_path / "www.elf").write_bytes(elf64(xen_note(6, data=b"MirageOS") + xen_note()))
    with pytest.raises(ConfigError) as caught:
        config.load(file, dom0=True)
    line = WWW.count("\n") + 1
    what = "suspend is asked of the guest, and of those on Xen only Linux can"
    said = f"{file}:{line}: stop: {what}; use destroy, shutdown or pause"
    assert caught.value.mistakes == [said]


def test_what_jitsu_carries_for_a_backend_comes_first(tmp_path: Path) -> None:
    images = Path(config.__file__).parent.parent / "images"
    file = tmp_path / "jitsu.toml"
    file.write_text('[[service]]\nname = "www"\nimage = "hello.elf"\n')
    assert config.load(file, dom0=False).services[0].image == str(images / "hello.elf")
    found = images / "xen" / "hello.elf"
    expected = found if found.exists() else images / "hello.elf"
    assert config.load(file, dom0=True).services[0].image == str(expected)


@pytest.mark.parametrize(("text", "is_it"), [("control_d\n", True), ("\n", False), (None, False)])
def test_a_host_that_controls_xen_says_so(tmp_path: Path, text: str | None, is_it: bool) -> None:
    file = tmp_path / "capabilities"
    if text is not None:
        file.write_text(text)
    assert is_dom0(file) is is_it
