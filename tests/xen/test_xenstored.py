"""Our store in the place of dom0's xenstored: Xen's programs, kernels and real guests on it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from host.store_client import RawClient
from jitsu.core.xenstore.ring import INDICES
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.host.xen.pages import SharedPages
from jitsu.wire.xenstore import Op, join

pytestmark = pytest.mark.xen(store="jitsu", timeout=400)

SOCKET = Path("/run/xenstored/socket")
STATE = Path("/var/lib/jitsu/xenstored")
CONSOLED = Path("/run/xen/xenconsoled.pid")
PATIENCE = 120.0
REQUESTS_PRODUCED, CONNECTION, ERROR = 2052, 2068, 2072
"""Where in a domain's page (xs_wire.h)."""
CONFIG = """
name = "{name}"
type = "pv"
kernel = "/boot/vmlinux-domu"
ramdisk = "/boot/domu.cpio"
extra = "console=hvc0 quiet ip=10.9.0.2/24"
memory = 96
vcpus = 1
vif = [{vif}]
disk = [{disk}]
"""
DAEMON = """
[directory]
listen = ["10.77.0.1:53"]
[network]
bridge = "jtest0"
[host]
memory = "256MiB"
state = "{folder}/state"
run = "{folder}/run"
xenstored = "own"
[[service]]
name = "www"
dns = ["www.jitsu.test"]
image = "hello.elf"
address = "10.77.0.10"
boot_timeout = 60
"""
JITSU = (sys.executable, "-m", "jitsu")
_heirs: list[subprocess.Popen[str]] = []


def said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def config(folder: Path, name: str, vif: str = "", disk: str = "") -> str:
    path = folder / f"{name}.cfg"
    path.write_text(CONFIG.format(name=name, vif=vif, disk=disk))
    return str(path)


def becomes(store: RawClient, path: str, value: bytes) -> bool:
    """Wait until a node has a value."""
    token = path.encode()
    assert store.ask(Op.WATCH, join(token, token)) == b"OK\0"
    while store.read(token) != value:
        while store.next().payload.split(b"\0")[1] != token:
            pass
    assert store.ask(Op.UNWATCH, join(token, token)) == b"OK\0"
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """End a process, which need not be ours."""
    watched = os.pidfd_open(pid)
    os.kill(pid, number)
    assert select.select([watched], [], [], PATIENCE)[0]
    os.close(watched)


def start(*argv: str) -> str:
    """Start what is dom0's store from now on; return what it says when it is, or why not."""
    heir = subprocess.Popen([*JITSU, *argv], stderr=subprocess.PIPE, text=True)
    _heirs.append(heir)  # it outlives the test, for dom0 needs its store
    assert heir.stderr is not None
    first = next((line for line in heir.stderr if '"serving"' in line), "nothing")
    start_consoles()
    return first


def kill_and_start_again() -> str:
    """Kill the store with SIGKILL and start another; return what that says."""
    kill(int((STATE / "pid").read_text()))
    return start("xenstored", "--xen")


def start_consoles() -> None:
    """Start xenconsoled again: like all who were connected to the store's socket it is cut off."""
    with suppress(ProcessLookupError):
        os.kill(int(CONSOLED.read_text()), signal.SIGKILL)
    said("xenconsoled", "--log=guest", "--log-dir=/var/log/xen/console", f"--pid-file={CONSOLED}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guests")


@pytest.fixture(scope="module")
def guest(folder: Path) -> Iterator[int]:
    """A Linux with an interface on a bridge and a disk, which serves pages; its domid."""
    said("ip", "link", "add", "xenbr0", "type", "bridge")
    said("ip", "address", "add", "10.9.0.1/24", "dev", "xenbr0")
    said("ip", "link", "set", "xenbr0", "up")
    disk = folder / "disk"
    disk.write_bytes(bytes(4 << 20))
    said("modprobe", "loop")
    said("losetup", "/dev/loop0", str(disk))
    said("xl", "create", config(folder, "linux", '"bridge=xenbr0"', '"phy:/dev/loop0,xvda,w"'))
    try:
        assert serves()
        yield int(said("xl", "domid", "linux"))
    finally:
        subprocess.run(["xl", "destroy", "linux"], check=False)
        said("losetup", "-d", "/dev/loop0")
        said("ip", "link", "delete", "xenbr0")


def serves() -> bool:
    retry = ("--retry", "60", "--retry-all-errors", "--retry-delay", "1")
    return "DOMU-READY" in said("curl", "-sS", *retry, "http://10.9.0.2/init")


@pytest.fixture
def store() -> Iterator[RawClient]:
    with RawClient(SOCKET) as client:
        client.socket.settimeout(PATIENCE)
        yield client


def test_xens_tools(store: RawClient) -> None:
    said("xenstore-write", "/tests/a", "1", "/tests/b", "2")
    assert said("xenstore-read", "/tests/a") == "1\n"
    assert said("xenstore-ls", "/tests") == 'a = "1"\nb = "2"\n'
    assert said("xenstore-read", "/tool/xenstored") == "jitsu\n"
    assert said("xenstore-read", "/local/domain/0/name") == "Domain-0\n"  # xen-init-dom0 has run
    said("xenstore-rm", "/tests")
    # dom0's kernel speaks by its ring.
    assert store.read(b"/local/domain/0/control/feature-poweroff") == b"1"


def test_another_one_is_refused(tmp_path: Path) -> None:
    argv = [*JITSU, "xenstored", "--xen"]
    argv += ["--socket", str(tmp_path / "socket"), "--state", str(tmp_path / "state")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another xenstored runs in this dom0" in done.stderr


def test_who_introduces_a_domain_that_is_none_is_told_so(store: RawClient) -> None:
    assert store.ask(Op.INTRODUCE, join(b"77", b"1", b"1")) == b"!EINVAL\0"
    assert store.ask(Op.IS_DOMAIN_INTRODUCED, join(b"77")) == b"F\0"


def test_a_guest_with_its_devices(store: RawClient, guest: int) -> None:
    home = f"/local/domain/{guest}".encode()
    assert becomes(store, f"/local/domain/{guest}/device/vif/0/state", b"4")
    assert becomes(store, f"/local/domain/{guest}/device/vbd/51712/state", b"4")
    assert becomes(store, f"/local/domain/0/backend/vif/{guest}/0/state", b"4")
    assert becomes(store, f"/local/domain/0/backend/vbd/{guest}/51712/state", b"4")
    assert store.read(home + b"/console/tty").startswith(b"/dev/pts/")  # xenconsoled's
    assert store.ask(Op.GET_PERMS, join(home)) == b"n0\0" + b"r%d\0" % guest
    # What the guest has written is its own.
    owner = store.ask(Op.GET_PERMS, join(home + b"/device/vif/0/state")).split(b"\0")[0]
    assert owner == b"n%d" % guest


def test_a_killed_store_goes_on_with_who_was_there(guest: int) -> None:
    """The guest and both kernels have set their watches with the daemon that was killed."""
    before = said("xenstore-ls", "-f", "-p")
    assert "serving" in kill_and_start_again()
    assert said("xenstore-ls", "-f", "-p") == before
    assert serves()
    with RawClient(SOCKET) as store:
        store.socket.settimeout(PATIENCE)
        assert store.ask(Op.IS_DOMAIN_INTRODUCED, join(b"%d" % guest)) == b"T\0"
        # The kernel of dom0 sees a new backend, and that of the guest a new frontend.
        said("xl", "network-attach", "linux", "bridge=xenbr0")
        assert becomes(store, f"/local/domain/0/backend/vif/{guest}/1/state", b"4")
        assert Path(f"/sys/class/net/vif{guest}.1").exists()
        # The guest takes an order.
        store.write(f"/local/domain/{guest}/control/sysrq".encode(), b"h")
        assert becomes(store, f"/local/domain/{guest}/control/sysrq", b"")


def refused(page: SharedPages, store: RawClient, home: str) -> bool:
    """Wait until the store has told a domain, in its page, that it is served no more.

    The store looks at a ring when it has something for it: here, that a node has changed.
    """
    sysrq = f"{home}/control/sysrq".encode()
    while page.memory[ERROR] == 0:
        assert store.write(sysrq, b"\0") == b"OK\0"
    return page.memory[ERROR] == INDICES


def test_a_ring_full_of_rubbish(store: RawClient, folder: Path, guest: int) -> None:
    """A domain that forges an index is not served; nobody else notices. It may begin anew."""
    said("xl", "create", config(folder, "rubbish"))
    domid = int(said("xl", "domid", "rubbish"))
    home = f"/local/domain/{domid}"
    assert becomes(store, f"{home}/control/feature-reboot", b"1")  # its kernel has set its watches
    said("xl", "pause", "rubbish")
    try:
        with GrantMapper() as mapper, mapper.map(domid, [1]) as page:
            page.memory[REQUESTS_PRODUCED : REQUESTS_PRODUCED + 4] = b"\xff\xff\xff\x7f"
            assert refused(page, store, home)
            assert store.write(b"/tests/polite", b"1") == b"OK\0"
            assert store.ask(Op.IS_DOMAIN_INTRODUCED, join(b"%d" % domid)) == b"T\0"
            assert serves()
            page.memory[CONNECTION] = 1
            assert "serving" in kill_and_start_again()  # an heir looks at all rings
            assert said("xenstore-read", "/tests/polite") == "1\n"
            assert (page.memory[CONNECTION], page.memory[ERROR]) == (0, 0)
            assert page.memory[REQUESTS_PRODUCED : REQUESTS_PRODUCED + 4] == bytes(4)
            # So does who introduces it again.
            page.memory[REQUESTS_PRODUCED : REQUESTS_PRODUCED + 4] = b"\xff\xff\xff\x7f"
            with RawClient(SOCKET) as again:
                ref, port = (again.read(f"{home}/store/{x}".encode()) for x in ("ring-ref", "port"))
                assert again.ask(Op.INTRODUCE, join(b"%d" % domid, ref, port)) == b"OK\0"
            assert page.memory[REQUESTS_PRODUCED : REQUESTS_PRODUCED + 4] == bytes(4)
    finally:
        said("xl", "destroy", "rubbish")
    assert said("xl", "list").count("\n") == 3


def test_who_dies_is_missed_and_leaves_nothing(store: RawClient, guest: int) -> None:
    assert store.ask(Op.WATCH, join(b"@releaseDomain", b"t")) == b"OK\0"
    assert store.next().payload == join(b"@releaseDomain", b"t")
    said("xl", "destroy", "linux")
    assert store.next().payload == join(b"@releaseDomain", b"t")
    assert store.ask(Op.IS_DOMAIN_INTRODUCED, join(b"%d" % guest)) == b"F\0"
    assert said("xl", "list").count("\n") == 2
    assert store.read(b"/local/domain/%d" % guest) == b"!ENOENT\0"
    assert f"n{guest}" not in said("xenstore-ls", "-f", "-p")
    assert store.ask(Op.CONTROL, join(b"check")) == b"OK\n\0"


def test_the_daemon_is_dom0s_store(tmp_path: Path) -> None:
    """It takes over from the store alone, and that from it again; a guest finds the daemon's."""
    (tmp_path / "daemon.toml").write_text(DAEMON.format(folder=tmp_path))
    (tmp_path / "state").mkdir()
    (tmp_path / "state/xenstore-dom0").symlink_to(STATE)
    kill(int((STATE / "pid").read_text()), signal.SIGTERM)
    config = ("-c", str(tmp_path / "daemon.toml"))
    try:
        assert "serving" in start("serve", *config)
        said(*JITSU, "summon", "www", *config)
        domid = said("xenstore-read", "/conduit/www").strip()
        assert said("xenstore-read", f"/local/domain/{domid}/data/ready") == "1\n"
        assert said("xl", "domid", "www").strip() == domid
        said(*JITSU, "stop", "www", *config)
    finally:
        kill(_heirs[-1].pid, signal.SIGTERM)
        assert "serving" in start("xenstored", "--xen")
    assert said("xenstore-read", "/local/domain/0/name") == "Domain-0\n"
    assert said("xl", "list").count("\n") == 2
