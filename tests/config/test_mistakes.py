"""Each mistake that an operator can make, and exactly what is said of it."""

import os
from pathlib import Path

import pytest

from config.elf import OTHER_NOTE, elf64
from jitsu import config
from jitsu.errors import ConfigError

WWW = '[[service]]\nname = "www"\nimage = "www.elf"\n'
"""Three lines, so that what is added to it is on line 4."""
MAIL = '[[service]]\nname = "mail"\nimage = "www.elf"\n'
BRIDGE = "is no name for a bridge; use 1 to 9 letters, digits and _, and not lo"
KEYS = (
    "address, address6, answer, backend, boot_timeout, cmdline, disks, dns, handoff, idle_after, "
    "image, initrd, listen, memory, name, nics, ready, stop, warm"
)


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    """Return what is said of a configuration, without the name of its folder."""
    path = folder / "jitsu.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return [mistake.replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def check(folder: Path, text: str, *said: str) -> None:
    assert mistakes(folder, text) == [f"jitsu.toml:{line}" for line in said]


SYNTAX = [
    ("x = = 3", "1: not TOML: Invalid value"),
    (WWW + 'name = "again"\n', "4: not TOML: Cannot overwrite a value"),
    ('# one\n# two\n[host\nmemory = "1GiB"', "3: not TOML: Expected ']' at the end of a table "),
]


@pytest.mark.parametrize(("text", "said"), SYNTAX)
def test_syntax(folder: Path, text: str, said: str) -> None:
    (mistake,) = mistakes(folder, text)
    assert mistake.startswith(f"jitsu.toml:{said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[service", "not TOML: Expected ']]' at the end of an array declaration"),
        ("a = " + "9" * 5000, "not TOML: Exceeds the limit (4300 digits)"),
        ("a = " + "[" * 5000, "not TOML: maximum recursion depth exceeded"),
    ],
)
def test_syntax_that_has_no_line(folder: Path, text: str, said: str) -> None:
    (mistake,) = mistakes(folder, text)
    assert mistake.startswith(f"jitsu.toml: {said}")


def test_not_text(folder: Path) -> None:
    said = ["jitsu.toml: cannot be read: is not UTF-8 text"]
    assert mistakes(folder, WWW.encode() + b"# caf\xe9") == said


def test_not_readable(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for path, said in [
        ("nowhere.toml", "No such file or directory"),
        ("", "is no regular file"),
        ("fifo", "is no regular file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            config.load(folder / path)
        assert caught.value.mistakes == [f"{folder / path}: cannot be read: {said}"]


SHAPE = [
    # Keys and tables that are not known, or not there.
    ("", "1: service: no service is given; add a [[service]] table"),
    ("service = []", "1: service: no service is given; add a [[service]] table"),
    ("[[service]]\nname = 'a'", "1: image: missing; every [[service]] needs it"),
    ("\n[[service]]\nimage = 'www.elf'", "2: name: missing; every [[service]] needs it"),
    (WWW + "memry = '16MiB'", "4: memry: unknown key; did you mean memory?"),
    (WWW + "zzz = 1", f"4: zzz: unknown key; known here: {KEYS}"),
    (WWW + '"a\\nb" = 1', f"1: a\\nb: unknown key; known here: {KEYS}"),
    (WWW + "[directory]\nttl4 = 1", "5: ttl4: unknown key; did you mean ttl?"),
    (WWW + "[netwrk]\nbridge = 'b'", "4: netwrk: unknown key; did you mean network?"),
    (
        WWW + "[http]\nport = 80",
        "4: http: unknown key; known here: directory, host, network, service",
    ),
    # Tables of the wrong kind.
    ("[service]\nname = 'a'", "1: service: is no list of tables; begin each with [[service]]"),
    ("service = 3", "1: service: is no list of tables; begin each with [[service]]"),
    ("service = [3]", "1: service: is no list of tables; begin each with [[service]]"),
    ("host = 3\n" + WWW, "1: host: is no table; begin it with [host]"),
    ("\n[[network]]\n" + WWW, "2: network: is no table; begin it with [network]"),
    # Values of the wrong type.
    (WWW + "dns = 'www.jitsu.test'", "4: dns: 'www.jitsu.test' should be a valid list"),
    (WWW + "cmdline = 3", "4: cmdline: 3 should be a valid string"),
    (WWW + "warm = true", "4: warm: True should be a valid integer"),
    (WWW + "warm = -1", "4: warm: -1 should be greater than or equal to 0"),
    (WWW + "idle_after = '120'", "4: idle_after: '120' should be a valid number"),
    (WWW + "idle_after = true", "4: idle_after: True should be a valid number"),
    (WWW + "idle_after = 0", "4: idle_after: 0 should be greater than or equal to 0.001"),
    (WWW + "idle_after = inf", "4: idle_after: inf should be less than or equal to 10000000"),
    (WWW + "boot_timeout = nan", "4: boot_timeout: nan should be less than or equal to 10000000"),
    (WWW + "answer = 'soon'", "4: answer: 'soon' should be 'at-once' or 'when-ready'"),
    (
        WWW + "backend = 'bhyve'",
        "4: backend: 'bhyve' should be 'auto', 'spt', 'hvt', 'qemu', 'xen', 'libvirt' or 'process'",
    ),
    (WWW + "[directory]\nttl = -1", "5: ttl: -1 should be greater than or equal to 0"),
    (WWW + "[directory]\nttl = 1.5", "5: ttl: 1.5 should be a valid integer"),
    # Names.
    (
        "[[service]]\nname = 'a.b'\nimage = 'www.elf'",
        "2: name: 'a.b' is not a name; use letters, digits, - and _, at most 63",
    ),
    (
        WWW + "dns = ['ok.test', 'a..b']",
        "4: dns: 'a..b' is not a domain name; write it like \"www.example.org\"",
    ),
    (WWW + 'cmdline = "a\\u0000b"', "4: cmdline: 'a\\x00b' holds a NUL character; take it out"),
    (WWW + '[host]\nrun = "/\\u0000"', "5: run: '/\\x00' holds a NUL character; take it out"),
    (
        WWW + "[network]\nbridge = 'br-services'",
        f"5: bridge: 'br-services' {BRIDGE}",
    ),
    (WWW + "[network]\nbridge = 'lo'", f"5: bridge: 'lo' {BRIDGE}"),
    (WWW + "[network]\nbridge = ''", f"5: bridge: '' {BRIDGE}"),
    (WWW + "[network]\nbridge = 3", f"5: bridge: 3 {BRIDGE}"),
    *(
        (
            WWW + f"[network]\nuplink = '{name}'",
            f"5: uplink: '{name}' is no interface to put on a bridge; see `ip link`",
        )
        for name in ("eth 0", "eth0 ", "lo", ".", "a/b", "a" * 16)
    ),
    *(
        (WWW + f"[host]\n{key} = ''", f"5: {key}: is empty; name a folder, or leave it out")
        for key in ("run", "state")
    ),
    # Memory.
    (
        WWW + "memory = '16777217B'",
        '4: memory: is no whole number of KiB; write it like "16MiB"',
    ),
    (WWW + "memory = '1MiB'", "4: memory: too small; give at least 8MiB"),
    *(
        (
            WWW + f"memory = {written}",
            f'4: memory: not an amount of memory: {seen}; write it like "16MiB" or "2GiB"',
        )
        for written, seen in [("'16MB'", "'16MB'"), ("16", "16"), ("'-8MiB'", "'-8MiB'")]
    ),
    # Addresses and networks.
    (WWW + "address = '10.77.0'", "4: address: '10.77.0' is not an IPv4 address"),
    (WWW + "address = 'fd77::1'", "4: address: 'fd77::1' is not an IPv4 address"),
    (WWW + "address6 = '10.77.0.9'", "4: address6: '10.77.0.9' is not an IPv6 address"),
    (
        "[network]\nsubnet = '10.77.0.0/30'\n" + WWW,
        "2: subnet: '10.77.0.0/30' has no room for services; give an IPv4 network of /29 or more",
    ),
    (
        "[network]\nsubnet = '10.77.0.1/24'\n" + WWW,
        "2: subnet: '10.77.0.1/24' is not a network (10.77.0.1/24 has host bits set); "
        'write it like "10.77.0.0/24"',
    ),
    (
        "[network]\nsubnet6 = '10.77.0.0/24'\n" + WWW,
        "2: subnet6: '10.77.0.0/24' is not an IPv6 network",
    ),
    (
        "[network]\nsubnet6 = 'fd77::/126'\n" + WWW,
        "2: subnet6: 'fd77::/126' has no room for services; give an IPv6 network of /125 or more",
    ),
    *(
        (
            f"[network]\n{key} = '{network}'\n" + WWW,
            f"2: {key}: '{network}' holds {kind} addresses, which no service can have; "
            f'give one like "{"10.77.0.0/24" if key == "subnet" else "fd77::/64"}"',
        )
        for key, network, kind in [
            ("subnet", "0.0.0.0/0", "unspecified"),
            ("subnet", "0.0.0.0/24", "unspecified"),
            ("subnet", "127.0.1.0/24", "loopback"),
            ("subnet", "169.254.0.0/16", "link-local"),
            ("subnet", "224.0.0.0/24", "multicast"),
            ("subnet", "192.0.0.0/2", "multicast"),
            ("subnet", "255.255.255.0/24", "reserved"),
            ("subnet6", "::/0", "unspecified"),
            ("subnet6", "::1/128", "loopback"),
            ("subnet6", "fe80::/64", "link-local"),
            ("subnet6", "ff02::/16", "multicast"),
        ]
    ),
    (
        "[directory]\nsummon_from = ['anywhere']\n" + WWW,
        "2: summon_from: 'anywhere' is not a network ('anywhere' does not appear to be an IPv4 or "
        'IPv6 network); write it like "10.77.0.0/24"',
    ),
    (
        "[directory]\nlisten = []\n" + WWW,
        "2: listen: is empty; give at least one, or leave it out",
    ),
    (
        "[directory]\nlisten = ['10.77.0.1:0']\n" + WWW,
        "2: listen: '10.77.0.1:0': port 0 is not within 1 to 65535",
    ),
    *(
        (
            f"[directory]\n{key} = ['{written}']\n" + WWW,
            f"2: {key}: '{written}' is not address:port; write it like \"10.77.0.1:53\"",
        )
        for key, written in [("listen", "10.77.0.1"), ("listen", "localhost:53"), ("forward", "x")]
    ),
]


@pytest.mark.parametrize(("text", "said"), SHAPE, ids=[said[:40] for _, said in SHAPE])
def test_shape(folder: Path, text: str, said: str) -> None:
    check(folder, text, said)


def not_yet(key: str, value: str, instead: str) -> tuple[str, str]:
    said = f"4: {key}: {value} is not in this version; use one of {instead}"
    return WWW + f"{key} = {value if value.isdecimal() else repr(value)}", said


PROGRAM = '[[service]]\nname = "www"\nbackend = "process"\nimage = "{}"\n'
NO_LISTEN = 'a virtual machine listens by itself; take it out, or use backend = "process"'
NO_FRAME = "a program's network is up before it listens; give tcp:PORT or delay:SECONDS"
LONG = "/run/" + "x" * 88
READY = "is not known; use frame, tcp:PORT, delay:SECONDS or key:PATH"
NO_IMAGE = "give a raw image"
SENSE = [
    # What this version cannot do is refused, not ignored.
    *(not_yet("backend", b, "auto, qemu, xen, process") for b in ("spt", "hvt", "libvirt")),
    (WWW + "listen = [80]", f"4: listen: {NO_LISTEN}"),
    (
        PROGRAM.format("/bin/true") + f"listen = {list(range(1, 1026))}",
        "5: listen: has 1025 items; 1024 are the most",
    ),
    (
        PROGRAM.format("/etc/passwd") + "listen = [80]",
        "4: image: /etc/passwd is no program that can be executed; give one, or chmod +x it",
    ),
    (PROGRAM.format("/bin/true"), f"1: ready: {NO_FRAME}"),
    (PROGRAM.format("/bin/true") + "listen = [80]\nhandoff = 'splice'", f"1: ready: {NO_FRAME}"),
    (
        PROGRAM.format("/bin/true") + "handoff = 'import'",
        "5: handoff: connections are imported for a program that is listened for; "
        "give listen = [PORT]",
    ),
    (
        PROGRAM.format("/bin/true") + "listen = [80]\ncmdline = 'say \"hello'",
        "6: cmdline: No closing quotation; quote its arguments as in a shell",
    ),
    (
        PROGRAM.format("/bin/true") + "listen = [80]\ninitrd = 'x'",
        "6: initrd: a program has none; take it out",
    ),
    (
        WWW + "handoff = 'splice'\nready = 'delay:1'",
        "4: handoff: splice begins when the guest is seen to serve; give ready = frame or tcp:PORT",
    ),
    (
        WWW + "handoff = 'import'",
        "4: handoff: www.elf does not say that it can import connections (no Jitsu note); "
        "use splice or replay",
    ),
    (
        WWW + "stop = 'suspend'",
        "4: stop: suspend is not what backend qemu can do; use destroy, shutdown or pause",
    ),
    (
        PROGRAM.format("/bin/true") + "ready = 'delay:1'\nstop = 'pause'",
        "6: stop: pause is not what backend process can do; use destroy or shutdown",
    ),
    (WWW + "nics = ['br1']", "4: nics: is not what backend qemu can do; leave it out"),
    (
        PROGRAM.format("/bin/true") + "listen = [80]\nwarm = 1",
        "6: warm: is not what backend process can do; leave it out",
    ),
    (
        PROGRAM.format("/bin/true") + "ready = 'key:data/ready'",
        "5: ready: key is not what backend process can do; use frame, tcp:PORT or delay:SECONDS",
    ),
    (
        WWW + "backend = 'xen'",
        "4: backend: xen is for a host that controls Xen (dom0), and this is none; use auto",
    ),
    (
        WWW + "[host]\nxenstored = 'running'",
        "5: xenstored: running is for guests of Xen, and no service has backend xen; "
        "use auto or own",
    ),
    *(
        (WWW + f"ready = '{r}'", f"4: ready: '{r}' {READY}")
        for r in ("", "soon", "frame:1", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:http", "delay:x")
    ),
    (
        WWW + "ready = 'delay:10'",
        "4: ready: delay:10 is not within boot_timeout; make that longer",
    ),
    # What two services cannot share.
    (WWW + WWW, "5: name: www is already service www's; choose another"),
    (
        WWW + "dns = ['a.test', 'b.test']\n" + MAIL + "dns = [\n 'c.test',\n 'B.test.']",
        "8: dns: b.test is already service www's; choose another",
    ),
    (
        WWW + "address = '10.77.0.9'\n" + MAIL + "address = '10.77.0.9'",
        "8: address: 10.77.0.9 is already service www's; choose another",
    ),
    (
        WWW + "address6 = 'fd77::9'\n" + MAIL + "address6 = 'fd77::0:9'\n"
        "[network]\nsubnet6 = 'fd77::/64'",
        "8: address6: fd77::9 is already service www's; choose another",
    ),
    # Addresses that are nobody's to give.
    *(
        (
            WWW + f"address = '{a}'",
            f"4: address: {a} is no host address of subnet 10.77.0.0/24; choose one within it",
        )
        for a in ("10.78.0.1", "10.77.0.0", "10.77.0.255", "0.0.0.0")
    ),
    (WWW + "address = '10.77.0.1'", "4: address: 10.77.0.1 is the host's own; choose another"),
    (
        "[directory]\nlisten = ['127.0.0.1:53']\n" + WWW + "address = '10.77.0.1'",
        "6: address: 10.77.0.1 is the host's own; choose another",
    ),
    (
        "[directory]\nlisten = ['10.77.0.7:53', '10.77.0.8:53']\n" + WWW + "address = '10.77.0.8'",
        "6: address: 10.77.0.8 is the host's own; choose another",
    ),
    (
        WWW + "address6 = 'fd77::1'",
        "4: address6: fd77::1 is not within [network] subnet6; none is given; give one",
    ),
    (
        WWW + "address6 = 'fd78::1'\n[network]\nsubnet6 = 'fd77::/64'",
        "4: address6: fd78::1 is not within [network] subnet6; choose one within it",
    ),
    (
        WWW + "address6 = 'fd77::'\n[network]\nsubnet6 = 'fd77::/64'",
        "4: address6: fd77:: is no host address of subnet6 fd77::/64; choose one within it",
    ),
    (
        WWW + "address6 = 'fd77::1'\n[network]\nsubnet6 = 'fd77::/64'",
        "4: address6: fd77::1 is the host's own; choose another",
    ),
    *(
        (
            "[directory]\nlisten = ['[fd78::9]:53', '[fd77::7]:53', '[fd77::8]:53']\n"
            f"{WWW}address6 = '{a}'\n[network]\nsubnet6 = 'fd77::/64'",
            f"6: address6: {a} is the host's own; choose another",
        )
        for a in ("fd77::7", "fd77::8")
    ),
    # The host.
    (
        WWW + "memory = '256MiB'\nwarm = 9",
        "5: warm: takes 2304 MiB so far, more than [host] memory allows; "
        "keep fewer, or give it more",
    ),
    (
        WWW + "memory = '1GiB'\nwarm = 2\n" + MAIL + "warm = 1",
        "9: warm: takes 2064 MiB so far, more than [host] memory allows; "
        "keep fewer, or give it more",
    ),
    (WWW + "memory = '3GiB'\nwarm = 1", "4: memory: more than [host] memory allows"),
    (WWW + "memory = '3GiB'", "4: memory: more than [host] memory allows"),
    (WWW + "[host]\nmemory = '8MiB'", "1: memory: more than [host] memory allows"),
    *(
        (
            f"[directory]\nlisten = ['127.0.0.1:53', '{wild}:53']\n" + WWW,
            f"2: listen: {wild}:53: a wildcard cannot say which address answers; name each address",
        )
        for wild in ("0.0.0.0", "[::]")
    ),
    *(
        (
            f"[directory]\nlisten = ['{a}:53']\n" + WWW,
            f"2: listen: {a} is no host address of subnet 10.77.0.0/24; choose one within it",
        )
        for a in ("10.77.0.0", "10.77.0.255")
    ),
    (
        "[directory]\nlisten = ['[fd77::]:53']\n[network]\nsubnet6 = 'fd77::/64'\n" + WWW,
        "2: listen: fd77:: is no host address of subnet6 fd77::/64; choose one within it",
    ),
    (
        "[directory]\nlisten = ['10.77.0.1:53', '[fd77::1]:53', '10.77.0.1:53']\n" + WWW,
        "2: listen: 10.77.0.1:53 is there twice; take one out",
    ),
    *(
        (
            f"[directory]\n{listen}forward = ['9.9.9.9:53', '10.77.0.1:53']\n" + WWW,
            f"{line}: forward: 10.77.0.1:53 is where Jitsu itself listens; name another resolver",
        )
        for line, listen in ((2, ""), (3, "listen = ['10.77.0.1:53']\n"))
    ),
    (
        WWW + f"[host]\nrun = '{LONG}'",
        "5: run: is longer than the 92 bytes that a socket's folder may have; choose a shorter one",
    ),
    (
        WWW + "stop = 'shutdown'",
        "4: stop: shutdown presses a power button, which a PVH image has not; use destroy",
    ),
    (
        "[network]\nuplink = 'jitsu0'\n" + WWW,
        "2: uplink: is the bridge itself; name another one",
    ),
]


@pytest.mark.parametrize(("text", "said"), SENSE, ids=[said[:40] for _, said in SENSE])
def test_sense(folder: Path, text: str, said: str) -> None:
    check(folder, text, said)


NEITHER = "is neither an ELF file nor a Linux bzImage"


@pytest.mark.parametrize(
    ("image", "content", "said"),
    [
        ("nowhere.elf", None, "nowhere.elf cannot be read: No such file or directory"),
        (".", None, "{folder} is no regular file"),
        ("", None, "{folder} is no regular file"),
        ("a" * 300, None, "a" * 300 + " cannot be read: File name too long"),
        ("www.elf/below", None, "www.elf/below cannot be read: Not a directory"),
        ("empty", b"", f"empty {NEITHER}"),
        ("text", b"#!/bin/sh\n", f"text {NEITHER}"),
        ("plain", elf64(OTHER_NOTE), "plain is ELF but has no PVH entry note (Xen note, type 18)"),
        ("cut", elf64()[:100], "cut is a damaged ELF file"),
        ("new\\nline", b"", f"new\\nline {NEITHER}"),
    ],
)
def test_image(folder: Path, image: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (folder / image.replace("\\n", "\n")).write_bytes(content)
    hint = "give a PVH ELF or a Linux bzImage"
    text = f'[[service]]\nname = "www"\nimage = "{image}"\n'
    check(folder, text, f"3: image: {said.format(folder=folder)}; {hint}")


def test_an_initrd_that_is_not_there(folder: Path) -> None:
    hint = "give what Linux starts from, or leave it out"
    check(folder, WWW + 'initrd = "away"', f"4: initrd: away is no file; {hint}")


def test_an_image_that_nobody_writes_to(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    text = '[[service]]\nname = "www"\nimage = "fifo"\n'
    hint = "give a PVH ELF or a Linux bzImage"
    check(folder, text, f"3: image: fifo is no regular file; {hint}")


def test_a_full_subnet(folder: Path) -> None:
    """A /29 has six addresses: the host's, that of probes, and four of services."""
    network = "[network]\nsubnet = '10.77.0.0/29'\n"
    services = [f"[[service]]\nname = 's{i}'\nimage = 'www.elf'\n" for i in range(5)]
    said = "address: the subnet is full; give it a larger one"
    check(folder, network + "".join(services), f"15: {said}")
    fixed = [text + f"address = '10.77.0.{i + 2}'\n" for i, text in enumerate(services)]
    said = "subnet: is full, and Jitsu needs one address for its probes; give a larger one"
    check(folder, network + "".join(fixed), f"2: {said}")


def test_all_mistakes_of_a_shape_in_the_order_of_their_lines(folder: Path) -> None:
    text = """\
# A comment moves what is below it, as does one with a line separator: \u2028 \x85
[[service]]
memory = '1MiB'     # too little
'name' = "www"
"imag" = "www.elf"
dns = [ "a.test", "b..test",
        "c.test" ]

[[ service ]]
image = "x"
name = "-"
[host]
memory = 1
directory.ttl = 3
[directory]
"listen" = "10.77.0.1:53"
"""
    check(
        folder,
        text,
        "2: image: missing; every [[service]] needs it",
        "3: memory: too small; give at least 8MiB",
        "5: imag: unknown key; did you mean image?",
        "6: dns: 'b..test' is not a domain name; write it like \"www.example.org\"",
        "11: name: '-' is not a name; use letters, digits, - and _, at most 63",
        '13: memory: not an amount of memory: 1; write it like "16MiB" or "2GiB"',
        "14: directory: unknown key; known here: memory, run, state, xenstored",
        "16: listen: '10.77.0.1:53' should be a valid list",
    )


@pytest.mark.parametrize("path", ["", "/", "a//b", "/a/", "a b", "@releaseDomain", "a" * 2049])
def test_a_key_is_a_path_of_the_store(folder: Path, path: str) -> None:
    said = f"ready: {f'key:{path}'!r} {READY}"
    assert f"jitsu.toml:4: {said}" in mistakes(folder, WWW + f"ready = 'key:{path}'")


def test_a_disk_is_a_raw_image(folder: Path) -> None:
    for name, content in [
        ("good.img", bytes(1024)),
        ("short.img", bytes(1000)),
        ("empty.img", b""),
        ("cow.img", b"QFI\xfb" + bytes(508)),
    ]:
        (folder / name).write_bytes(content)
    for text, said in [
        ("nowhere.img", f"nowhere.img is no file; {NO_IMAGE}"),
        ("short.img", f"short.img is no whole number of 512 byte sectors; {NO_IMAGE}"),
        ("empty.img:ro", f"empty.img is no whole number of 512 byte sectors; {NO_IMAGE}"),
        ("cow.img", f"cow.img is qcow2; {NO_IMAGE} (qemu-img convert -O raw)"),
    ]:
        found = mistakes(folder, WWW + f"disks = ['good.img', '{text}']")
        assert found[-1] == f"jitsu.toml:4: disks: {said}"


def test_a_disk_that_is_written_to_is_of_one_service(folder: Path) -> None:
    (folder / "a.img").write_bytes(bytes(512))
    for its, others, clash in [
        ("a.img", "./a.img", True),
        ("a.img:ro", "a.img", True),
        ("a.img:ro", "a.img:ro", False),
    ]:
        text = WWW + f"disks = ['{its}']\n" + MAIL + f"disks = ['{others}']"
        said = "jitsu.toml:8: disks: a.img is written to, and is there twice; give each its own"
        assert (said in mistakes(folder, text)) is clash
    (folder / "soft.img").symlink_to("a.img")
    (folder / "hard.img").hardlink_to(folder / "a.img")
    for other in ("soft.img", "hard.img"):
        text = WWW + "disks = ['a.img']\n" + MAIL + f"disks = ['{other}']"
        assert (
            f"jitsu.toml:8: disks: {other} is written to, and is there twice; give each its own"
            in (mistakes(folder, text))
        )


def test_a_further_interface_is_on_another_bridge(folder: Path) -> None:
    said = "is the services' own bridge, where it has its first interface; take it out"
    assert f"jitsu.toml:4: nics: jitsu0 {said}" in mistakes(folder, WWW + "nics = ['jitsu0']")
    (shape,) = mistakes(folder, WWW + "nics = ['a/b']")
    assert shape == "jitsu.toml:4: nics: 'a/b' is no bridge to have an interface on; see `ip link`"


def test_all_mistakes_of_sense_in_the_order_of_their_lines(folder: Path) -> None:
    text = """\
directory.listen = ["0.0.0.0:53"]
service = [{ name = "a", image = "www.elf" }, { name = "a", image = "www.elf", nics = ["br1"] }]
network.uplink = "jitsu0"
"""
    check(
        folder,
        text,
        "1: listen: 0.0.0.0:53: a wildcard cannot say which address answers; name each address",
        "2: nics: is not what backend qemu can do; leave it out",
        "2: name: a is already service a's; choose another",
        "3: uplink: is the bridge itself; name another one",
    )
