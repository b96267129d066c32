"""The shape of a configuration file: which keys there are, and what each may hold."""

import difflib
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import ErrorDetails

from jitsu.config.lines import Location
from jitsu.model import Answer, Endpoint, Handoff, StopMode, WhichXenstored

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NOBODYS = {
    "unspecified": ("0.0.0.0/8", "::/128"),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4",),
}
"""Networks that no service can be in (RFC 6890)."""
_INTERFACE = re.compile(r"(?!(?:lo|\.|\.\.)$)[^\s/:]{1,15}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
MEMORY_MIN = 8 << 20
"""QEMU's microvm and the smallest guests need this much."""
WARM_MAX = 16
"""Prepared instances of one service: it boots one at a time, and each is made again at once."""
DISKS_MAX, NICS_MAX = 16, 7
"""What every hypervisor has room for: xvda to xvdp, and eight interfaces with the first."""
PORTS_MAX = 1024
"""What a program's launcher has room for."""


def _memory(value: object) -> int:
    match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'not an amount of memory: {value!r}; write it like "16MiB" or "2GiB"')
    return int(match[1]) * _UNITS[match[2]]


def _text(value: object) -> object:
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{value!r} holds a NUL character; take it out")
    return value


def _label(value: object) -> str:
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; use letters, digits, - and _, at most 63")
    return value


def _domain(value: object) -> str:
    name = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if not name or len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(f'{value!r} is not a domain name; write it like "www.example.org"')
    return name


def _endpoint(value: object) -> Endpoint:
    text = value if isinstance(value, str) else ""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        endpoint = Endpoint(address, int(port))
    except ValueError:
        raise ValueError(f'{value!r} is not address:port; write it like "10.77.0.1:53"') from None
    if not 0 < endpoint.port < 65536:
        raise ValueError(f"{value!r}: port {endpoint.port} is not within 1 to 65535")
    return endpoint


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        if not isinstance(value, str):
            raise TypeError  # noqa: TRY301
        return ip_network(value)
    except (TypeError, ValueError) as error:
        hint = f" ({error})" if str(error) else ""
        raise ValueError(
            f'{value!r} is not a network{hint}; write it like "10.77.0.0/24"'
        ) from None


def _network4(value: object) -> IPv4Network:
    network = _network(value)
    if network.version != 4 or network.prefixlen > 29:
        raise ValueError(f"{value!r} has no room for services; give an IPv4 network of /29 or more")
    _somebodys(network, '"10.77.0.0/24"')
    return network


def _network6(value: object) -> IPv6Network:
    network = _network(value)
    if network.version != 6:
        raise ValueError(f"{value!r} is not an IPv6 network")
    _somebodys(network, '"fd77::/64"')
    if network.prefixlen > 125:
        raise ValueError(
            f"{value!r} has no room for services; give an IPv6 network of /125 or more"
        )
    return network


def _somebodys(network: IPv4Network | IPv6Network, example: str) -> None:
    """Raise ValueError for a network that holds addresses which no service can have."""
    for kind, ranges in _NOBODYS.items():
        for nobodys in map(ip_network, ranges):
            if nobodys.version == network.version and network.overlaps(cast(Any, nobodys)):
                what = f"'{network}' holds {kind} addresses, which no service can have"
                raise ValueError(f"{what}; give one like {example}")


def _bridge(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,9}", value) or value == "lo":
        what = "is no name for a bridge; use 1 to 9 letters, digits and _, and not lo"
        raise ValueError(f"{value!r} {what}")
    return value


def _uplink(value: object) -> str:
    if not isinstance(value, str) or not (value == "" or _INTERFACE.fullmatch(value)):
        raise ValueError(f"{value!r} is no interface to put on a bridge; see `ip link`")
    return value


def _nic(value: object) -> str:
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise ValueError(f"{value!r} is no bridge to have an interface on; see `ip link`")
    return value


def _folder(value: object) -> object:
    if value == "":
        raise ValueError("is empty; name a folder, or leave it out")
    return _text(value)


def _address(version: int) -> BeforeValidator:
    def parse(value: object) -> IPv4Address | IPv6Address:
        try:
            address = ip_address(value) if isinstance(value, str) else None
        except ValueError:
            address = None
        if address is None or address.version != version:
            raise ValueError(f"{value!r} is not an IPv{version} address")
        return address

    return BeforeValidator(parse)


Memory = Annotated[int, BeforeValidator(_memory)]
Label = Annotated[str, BeforeValidator(_label)]
Text = Annotated[str, BeforeValidator(_text)]
Folder = Annotated[str, BeforeValidator(_folder)]
Domain = Annotated[str, BeforeValidator(_domain)]
Listener = Annotated[Endpoint, BeforeValidator(_endpoint)]
Nic = Annotated[str, BeforeValidator(_nic)]
AnyNetwork = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Port = Annotated[int, Field(ge=1, le=0xFFFF)]
Seconds = Annotated[float, Field(ge=0.001, le=1e7)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class DirectoryShape(_Table):
    """`[directory]`."""

    listen: list[Listener] | None = Field(None, min_length=1)
    ttl: int = Field(60, ge=0, le=86400)
    forward: list[Listener] = []
    summon_from: list[AnyNetwork] | None = None


class NetworkShape(_Table):
    """`[network]`: interface names derive from `bridge`, which is why it is short."""

    bridge: Annotated[str, BeforeValidator(_bridge)] = "jitsu0"
    subnet: Annotated[IPv4Network, BeforeValidator(_network4)] = IPv4Network("10.77.0.0/24")
    subnet6: Annotated[IPv6Network, BeforeValidator(_network6)] | None = None
    uplink: Annotated[str, BeforeValidator(_uplink)] = ""


class HostShape(_Table):
    """`[host]`."""

    memory: Memory = 2 << 30
    state: Folder = "/var/lib/jitsu"
    run: Folder = "/run/jitsu"
    xenstored: WhichXenstored = Field(WhichXenstored.AUTO, strict=False)


class ServiceShape(_Table):
    """One `[[service]]`."""

    name: Label
    dns: list[Domain] = []
    image: Text
    backend: Literal["auto", "spt", "hvt", "qemu", "xen", "libvirt", "process"] = "auto"
    address: Annotated[IPv4Address, _address(4)] | None = None
    address6: Annotated[IPv6Address, _address(6)] | None = None
    memory: Annotated[Memory, Field(ge=MEMORY_MIN, multiple_of=1 << 10)] = 16 << 20
    cmdline: Text = Field("", max_length=1024)
    initrd: Text = ""
    listen: list[Port] = Field([], max_length=PORTS_MAX)
    handoff: Handoff = Field(Handoff.AUTO, strict=False)
    answer: Answer = Field(Answer.AT_ONCE, strict=False)
    ready: str = "frame"
    idle_after: Seconds = 120.0
    boot_timeout: Seconds = 10.0
    stop: StopMode = Field(StopMode.DESTROY, strict=False)
    warm: int = Field(0, ge=0, le=WARM_MAX)
    disks: list[Text] = Field([], max_length=DISKS_MAX)
    nics: list[Nic] = Field([], max_length=NICS_MAX)


class FileShape(_Table):
    """A whole file."""

    directory: DirectoryShape = DirectoryShape()
    network: NetworkShape = NetworkShape()
    host: HostShape = HostShape()
    service: list[ServiceShape] = Field(min_length=1)


_TABLES: dict[str, type[_Table]] = {
    "directory": DirectoryShape,
    "network": NetworkShape,
    "host": HostShape,
    "service": ServiceShape,
}


def mistake_of(detail: ErrorDetails) -> tuple[Location, str]:
    """Say what pydantic found in the operator's words: where, and `key: what and what to do`."""
    location: Location = detail["loc"]
    key = str(next((part for part in reversed(location) if isinstance(part, str)), "file"))
    match detail["type"]:
        case "extra_forbidden":
            return location, f"{key}: unknown key{_suggestion(location, key)}"
        case "missing" | "too_short" if location == ("service",):
            return location, "service: no service is given; add a [[service]] table"
        case "missing":
            return location, f"{key}: missing; every [[service]] needs it"
        case "model_type" | "list_type" if key == "service":
            return location, "service: is no list of tables; begin each with [[service]]"
        case "model_type":
            return location, f"{key}: is no table; begin it with [{key}]"
        case _:
            return location, f"{key}: {_wrong_value(key, detail)}"


def _wrong_value(key: str, detail: ErrorDetails) -> str:
    match detail["type"]:
        case "value_error":
            return str(cast(Any, detail)["ctx"]["error"])
        case "greater_than_equal" if key == "memory":
            return f"too small; give at least {MEMORY_MIN >> 20}MiB"
        case "multiple_of" if key == "memory":
            return 'is no whole number of KiB; write it like "16MiB"'
        case "too_short":
            return "is empty; give at least one, or leave it out"
        case "too_long":
            limits = cast(Any, detail)["ctx"]
            return f"has {limits['actual_length']} items; {limits['max_length']} are the most"
        case _:
            said = re.sub(r"^\w+ should", "should", detail["msg"])
            return f"{detail['input']!r} {said}"


def _suggestion(location: Location, key: str) -> str:
    table = _TABLES.get(str(location[0])) if len(location) > 1 else FileShape
    known = sorted((table or FileShape).model_fields)
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
