"""What must make sense together in a configuration whose shape is right."""

import hashlib
import os
import re
import shlex
from collections.abc import Hashable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from jitsu.config import abilities, devices
from jitsu.config.image import ImageError, ImageKind, image_is_linux, image_kind, image_terms
from jitsu.config.lines import Location
from jitsu.config.shape import FileShape, ServiceShape
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.path import home_of, locate
from jitsu.model import (
    Config,
    DirectoryConfig,
    Disk,
    Endpoint,
    Handoff,
    HostConfig,
    Name,
    NetworkConfig,
    Ready,
    ReadyOnDelay,
    ReadyOnFrame,
    ReadyOnKey,
    ReadyOnTcp,
    Service,
    StopMode,
    Terms,
    WhichXenstored,
    mac_of,
)

_SPLICE_TERMS = Terms(connections=1024, window=32 << 10)
"""A guest that knows nothing of it has negotiated nothing: no window scale, SACK or timestamps."""
_LINUX_TERMS = Terms(connections=1024, window=32 << 10, window_scale=7, sack=True, timestamps=True)
"""What Linux goes on with (TCP_REPAIR), and what one process surely has descriptors for."""
_SOCKET_PATH_MAX = 107
"""Bytes (unix(7): sun_path, without the NUL at its end)."""
_SOCKET = "xenstored.sock"
"""The longest name of a socket in the run folder."""


class Sense:
    """Turns a shape into a `Config` and collects every mistake on the way."""

    def __init__(
        self, shape: FileShape, folder: Path, leases: Mapping[Name, IPv4Address], dom0: bool
    ) -> None:
        self.mistakes: list[tuple[Location, str]] = []
        self._shape = shape
        self._folder = folder
        self._leases = leases
        self._dom0 = dom0
        addresses = (endpoint.address for endpoint in shape.directory.listen or [])
        self._listen = list(addresses)

    def config(self) -> Config:
        """Return the configuration; it may only be used when `mistakes` is empty."""
        network = self._network()
        directory = self._directory(network)
        addresses = self._addresses(network)
        services = tuple(
            self._service(i, service, addresses[i]) for i, service in enumerate(self._shape.service)
        )
        for i, its in devices.clashes([service.disks for service in services]):
            what = f"disks: {its.path} is written to, and is there twice; give each its own"
            self._blame(("service", i, "disks"), what)
        self._unique(services, {network.gateway, network.gateway6, *self._listen})
        host = self._host()
        for i, service in enumerate(services):
            if service.memory > host.memory:
                self._blame(("service", i, "memory"), "memory: more than [host] memory allows")
        self._fit(services, host.memory)
        return Config(directory, network, host, services)

    def _fit(self, services: tuple[Service, ...], memory: int) -> None:
        """Blame instances to be prepared that could not all be there while nothing runs."""
        wanted = 0
        for i, service in enumerate(services):
            wanted += service.warm * service.memory
            if service.warm and service.memory <= memory < wanted:
                what = f"warm: takes {wanted >> 20} MiB so far, more than [host] memory allows"
                self._blame(("service", i, "warm"), f"{what}; keep fewer, or give it more")

    def _blame(self, location: Location, what: str) -> None:
        self.mistakes.append((location, what))

    def _network(self) -> NetworkConfig:
        shape = self._shape.network
        subnet = shape.subnet
        inside = [a for a in self._listen if isinstance(a, IPv4Address) and a in subnet]
        for address in inside:
            if address in (subnet[0], subnet[-1]):
                what = f"{address} is no host address of subnet {subnet}; choose one within it"
                self._blame(("directory", "listen"), f"listen: {what}")
        gateway = inside[0] if inside else subnet[1]
        services = self._shape.service
        taken = {gateway, *inside, *(s.address or self._leases.get(Name(s.name)) for s in services)}
        hosts = (subnet[-2 - i] for i in range(subnet.num_addresses - 2))
        probe = next((a for a in hosts if a not in taken), None)
        if probe is None:
            what = "subnet: is full, and Jitsu needs one address for its probes; give a larger one"
            self._blame(("network", "subnet"), what)
            probe = gateway
        if shape.uplink == shape.bridge:
            self._blame(("network", "uplink"), "uplink: is the bridge itself; name another one")
        gateway6 = self._gateway6(shape.subnet6) if shape.subnet6 else None
        return NetworkConfig(
            shape.bridge, subnet, shape.subnet6, gateway, probe, shape.uplink, gateway6
        )

    def _gateway6(self, subnet: IPv6Network) -> IPv6Address:
        """Return the host's own address: the first within the subnet at which it serves DNS."""
        inside = [a for a in self._listen if isinstance(a, IPv6Address) and a in subnet]
        if subnet[0] in inside:
            what = f"{subnet[0]} is no host address of subnet6 {subnet}; choose one within it"
            self._blame(("directory", "listen"), f"listen: {what}")
        return inside[0] if inside else subnet[1]

    def _host(self) -> HostConfig:
        host = self._shape.host
        if len(os.fsencode(Path(host.run) / _SOCKET)) > _SOCKET_PATH_MAX:
            most = _SOCKET_PATH_MAX - len(_SOCKET) - 1
            what = f"is longer than the {most} bytes that a socket's folder may have"
            self._blame(("host", "run"), f"run: {what}; choose a shorter one")
        is_xen = any(self._chosen(service) == "xen" for service in self._shape.service)
        if host.xenstored is WhichXenstored.RUNNING and not is_xen:
            what = "xenstored: running is for guests of Xen, and no service has backend xen"
            self._blame(("host", "xenstored"), f"{what}; use auto or own")
        return HostConfig(host.memory, host.state, host.run, host.xenstored)

    def _directory(self, network: NetworkConfig) -> DirectoryConfig:
        shape = self._shape.directory
        own = (network.gateway, network.gateway6)
        listen = shape.listen or [Endpoint(address, 53) for address in own if address]
        for endpoint in listen:
            if endpoint.address.is_unspecified:
                what = "a wildcard cannot say which address answers; name each address"
                self._blame(("directory", "listen"), f"listen: {endpoint}: {what}")
        for twice in sorted({str(e) for e in listen if listen.count(e) > 1}):
            self._blame(("directory", "listen"), f"listen: {twice} is there twice; take one out")
        for endpoint in shape.forward:
            if endpoint in listen:
                what = "is where Jitsu itself listens; name another resolver"
                self._blame(("directory", "forward"), f"forward: {endpoint} {what}")
        near: list[IPv4Network | IPv6Network] = [network.subnet]
        near += [network.subnet6] if network.subnet6 else []
        allowed = near if shape.summon_from is None else shape.summon_from
        return DirectoryConfig(tuple(listen), tuple(allowed), shape.ttl, tuple(shape.forward))

    def _addresses(self, network: NetworkConfig) -> list[IPv4Address]:
        """Allot an address to each service that names none, its earlier one where it is free."""
        given = [s.address for s in self._shape.service]
        listen = (a for a in self._listen if isinstance(a, IPv4Address))
        taken = {network.gateway, network.probe, *listen, *(a for a in given if a)}
        kept = self._kept(network.subnet, taken)
        taken |= set(kept.values())
        allotted: list[IPv4Address] = []
        for i, (shape, address) in enumerate(zip(self._shape.service, given, strict=True)):
            found = address or kept.pop(shape.name, None)
            found = found or self._allot(shape.name, network.subnet, taken)
            if found is None:
                self._blame(("service", i), "address: the subnet is full; give it a larger one")
                found = network.subnet[0]
            taken.add(found)
            allotted.append(found)
        return allotted

    def _kept(self, subnet: IPv4Network, taken: set[IPv4Address]) -> dict[str, IPv4Address]:
        """Return by service the leases that can be kept: nobody else is allotted one of them."""
        kept: dict[str, IPv4Address] = {}
        for shape in self._shape.service:
            lease = None if shape.address else self._leases.get(Name(shape.name))
            if lease is None or lease in taken or lease in kept.values():
                continue
            if lease in subnet and lease not in (subnet[0], subnet[-1]):
                kept.setdefault(shape.name, lease)
        return kept

    def _allot(self, name: str, subnet: IPv4Network, taken: set[IPv4Address]) -> IPv4Address | None:
        hosts = subnet.num_addresses - 2
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % hosts
        candidates = (subnet[1 + (start + i) % hosts] for i in range(hosts))
        return next((a for a in candidates if a not in taken), None)

    def _service(self, i: int, shape: ServiceShape, address: IPv4Address) -> Service:
        network = self._shape.network
        subnet = network.subnet
        given = shape.address
        if given and (given not in subnet or given in (subnet[0], subnet[-1])):
            self._blame(
                ("service", i, "address"),
                f"address: {given} is no host address of subnet {subnet}; choose one within it",
            )
        if shape.address6:
            self._address6(i, shape.address6, network.subnet6)
        backend = self._backend(i, shape)
        image, terms = self._guest(i, shape)
        handoff = self._handoff(i, shape.handoff, image, terms)
        return Service(
            name=Name(shape.name),
            dns=tuple(dict.fromkeys(shape.dns)),
            image=image,
            address=address,
            mac=mac_of(shape.name),
            address6=shape.address6,
            backend=backend,
            memory=shape.memory,
            cmdline=shape.cmdline,
            initrd=self._initrd(i, shape.initrd) if shape.backend != "process" else "",
            listen=tuple(dict.fromkeys(shape.listen)),
            handoff=handoff,
            terms={Handoff.IMPORT: terms, Handoff.SPLICE: _SPLICE_TERMS}.get(handoff),
            answer=shape.answer,
            ready=self._ready(i, shape),
            idle_after=shape.idle_after,
            boot_timeout=shape.boot_timeout,
            stop=shape.stop,
            warm=shape.warm,
            disks=self._disks(i, shape),
            nics=self._nics(i, shape),
        )

    def _address6(self, i: int, given: IPv6Address, subnet: IPv6Network | None) -> None:
        """Blame an address that is not within the subnet, or is that of its routers (RFC 4291)."""
        if subnet is None or given not in subnet:
            what = f"{given} is not within [network] subnet6"
            hint = "choose one within it" if subnet else "none is given; give one"
        elif given == subnet[0]:
            what, hint = f"{given} is no host address of subnet6 {subnet}", "choose one within it"
        else:
            return
        self._blame(("service", i, "address6"), f"address6: {what}; {hint}")

    def _chosen(self, shape: ServiceShape) -> str:
        """Return the backend that is named, or is what this host has."""
        if shape.backend != "auto":
            return shape.backend
        return "xen" if self._dom0 else "qemu"

    def _backend(self, i: int, shape: ServiceShape) -> str:
        """Return the backend; blame what it cannot do."""
        backend = self._chosen(shape)
        if backend == "xen" and not self._dom0:
            what = "backend: xen is for a host that controls Xen (dom0), and this is none"
            self._blame(("service", i, "backend"), f"{what}; use auto")
        if backend not in abilities.ABILITIES:
            listed = ", ".join(("auto", *abilities.ABILITIES))
            what = f"backend: {backend} is not in this version; use one of {listed}"
            self._blame(("service", i, "backend"), what)
            return backend
        asked = {"warm": shape.warm > 0, "disks": bool(shape.disks), "nics": bool(shape.nics)}
        cannot = abilities.mistakes(backend, shape.stop, shape.ready, asked)
        for key, what in cannot.items():
            self._blame(("service", i, key), f"{key}: {what}")
        return backend

    def _disks(self, i: int, shape: ServiceShape) -> tuple[Disk, ...]:
        """Return the disks, beside the configuration; blame files that are no raw images."""
        disks: list[Disk] = []
        for text in shape.disks:
            disk, wrong = devices.disk(text, self._folder)
            disks.append(disk)
            if wrong:
                self._blame(("service", i, "disks"), f"disks: {wrong}")
        return tuple(disks)

    def _nics(self, i: int, shape: ServiceShape) -> tuple[str, ...]:
        """Return the further bridges; the services' own has an interface anyway."""
        if self._shape.network.bridge in shape.nics:
            what = "is the services' own bridge, where it has its first interface; take it out"
            self._blame(("service", i, "nics"), f"nics: {self._shape.network.bridge} {what}")
        return tuple(shape.nics)

    def _handoff(self, i: int, asked: Handoff, image: str, terms: Terms | None) -> Handoff:
        """Choose the best that the image can do, if the choice is ours."""
        if asked is Handoff.AUTO:
            return Handoff.IMPORT if terms else Handoff.REPLAY
        if asked is Handoff.IMPORT and terms is None:
            if self._shape.service[i].backend == "process":
                what = "handoff: connections are imported for a program that is listened for"
                self._blame(("service", i, "handoff"), f"{what}; give listen = [PORT]")
                return asked
            what = f"handoff: {image} does not say that it can import connections (no Jitsu note)"
            self._blame(("service", i, "handoff"), f"{what}; use splice or replay")
        if asked is Handoff.SPLICE and self._shape.service[i].ready.startswith("delay"):
            what = "handoff: splice begins when the guest is seen to serve"
            self._blame(("service", i, "handoff"), f"{what}; give ready = frame or tcp:PORT")
        return asked

    def _guest(self, i: int, shape: ServiceShape) -> tuple[str, Terms | None]:
        """Return where the image or program of a service is, and its terms."""
        if shape.backend == "process":
            return self._program(i, shape)
        if shape.listen:
            what = "listen: a virtual machine listens by itself; take it out, or use backend"
            self._blame(("service", i, "listen"), f'{what} = "process"')
        return self._image(i, shape.image, self._chosen(shape))

    def _program(self, i: int, shape: ServiceShape) -> tuple[str, Terms | None]:
        """Return where a program is, beside the configuration, and its terms."""
        path = self._folder / shape.image
        if not path.is_file() or not os.access(path, os.X_OK):
            what = f"image: {path} is no program that can be executed"
            self._blame(("service", i, "image"), f"{what}; give one, or chmod +x it")
        try:
            shlex.split(shape.cmdline)
        except ValueError as error:
            what = f"cmdline: {error}; quote its arguments as in a shell"
            self._blame(("service", i, "cmdline"), what)
        if shape.initrd:
            self._blame(("service", i, "initrd"), "initrd: a program has none; take it out")
        imports = bool(shape.listen) and shape.handoff in (Handoff.AUTO, Handoff.IMPORT)
        if shape.ready == "frame" and not imports and shape.handoff is not Handoff.IMPORT:
            what = "ready: a program's network is up before it listens"
            self._blame(("service", i, "ready"), f"{what}; give tcp:PORT or delay:SECONDS")
        return str(path), _LINUX_TERMS if shape.listen else None

    def _image(self, i: int, image: str, backend: str) -> tuple[str, Terms | None]:
        """Return where `image` is, beside the configuration or carried by Jitsu, and its terms."""
        terms = None
        path = self._folder / image
        ours = Path(__file__).parent.parent / "images"
        try:
            if not path.exists() and "/" not in image:
                carried = (ours / backend / image, ours / image)
                path = next((found for found in carried if found.exists()), path)
            kind, terms = image_kind(path), image_terms(path)
            if kind is ImageKind.LINUX and self._shape.service[i].handoff is Handoff.IMPORT:
                terms = self._linux_terms(i, backend)
            asked = self._shape.service[i].stop
            if kind is ImageKind.PVH and asked is StopMode.SHUTDOWN and backend != "xen":
                what = "stop: shutdown presses a power button, which a PVH image has not"
                self._blame(("service", i, "stop"), f"{what}; use destroy")
            if asked is StopMode.SUSPEND and backend == "xen" and not image_is_linux(path):
                what = "stop: suspend is asked of the guest, and of those on Xen only Linux can"
                self._blame(("service", i, "stop"), f"{what}; use destroy, shutdown or pause")
        except (ImageError, OSError) as error:
            said = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
            what = f"image: {path} {said}; give a PVH ELF or a Linux bzImage"
            self._blame(("service", i, "image"), what)
        return str(path), terms

    def _linux_terms(self, i: int, backend: str) -> Terms:
        """Return the terms of a Linux that is said to import; blame what its launcher cannot do."""
        if backend == "xen":
            what = "handoff: Linux imports by the store link, which domains of Xen have not"
            self._blame(("service", i, "handoff"), f"{what}; use splice or replay")
        elif self._shape.service[i].warm:
            what = "warm: a Linux that imports finds its boot on its command line"
            hint = "which what is prepared has before there is a boot; leave it out, or use splice"
            self._blame(("service", i, "warm"), f"{what}, {hint}")
        return _LINUX_TERMS

    def _initrd(self, i: int, initrd: str) -> str:
        """Return where `initrd` is, beside the configuration; nowhere if there is none."""
        path = self._folder / initrd
        if initrd and not path.is_file():
            what = f"initrd: {path} is no file; give what Linux starts from, or leave it out"
            self._blame(("service", i, "initrd"), what)
        return str(path) if initrd else ""

    def _ready(self, i: int, shape: ServiceShape) -> Ready:
        text = shape.ready
        match re.fullmatch(r"(frame|tcp|delay|key)(?::(.+))?", text), text:
            case _, "frame":
                return ReadyOnFrame()
            case re.Match() as m, _ if m[1] == "tcp" and re.fullmatch(r"\d{1,5}", m[2] or ""):
                if 0 < int(m[2]) < 65536:
                    return ReadyOnTcp(int(m[2]))
            case re.Match() as m, _ if m[1] == "delay" and re.fullmatch(r"\d+(\.\d+)?", m[2] or ""):
                if (seconds := float(m[2])) >= shape.boot_timeout:
                    what = f"ready: {text} is not within boot_timeout; make that longer"
                    self._blame(("service", i, "ready"), what)
                return ReadyOnDelay(seconds)
            case re.Match() as m, _ if m[1] == "key" and _is_path(m[2] or ""):
                return ReadyOnKey(m[2])
        what = f"ready: {text!r} is not known; use frame, tcp:PORT, delay:SECONDS or key:PATH"
        self._blame(("service", i, "ready"), what)
        return ReadyOnFrame()

    def _unique(
        self, services: tuple[Service, ...], host: set[IPv4Address | IPv6Address | None]
    ) -> None:
        """Blame each name, DNS name and address that the host or an earlier service has."""
        seen: dict[tuple[str, Hashable], int] = {}
        for i, service in enumerate(services):
            claims: list[tuple[str, Hashable]] = [("name", service.name), ("mac", service.mac)]
            given = self._shape.service[i].address  # one that is allotted is nobody else's
            claims += [("address", given)] if given else []
            claims += [("address6", service.address6)] if service.address6 else []
            claims += [("dns", name) for name in service.dns]
            for key, value in claims:
                owner = seen.setdefault((key, value), i)
                if owner == i or (key == "mac" and service.name == services[owner].name):
                    continue
                location = ("service", i, "name" if key == "mac" else key)
                self._blame(location, _clash(key, value, services[owner].name))
            for key, address in (("address", given), ("address6", service.address6)):
                if address and address in host:
                    what = f"{key}: {address} is the host's own; choose another"
                    self._blame(("service", i, key), what)


def _is_path(text: str) -> bool:
    """Say whether the store can have a node there, be it relative to a guest's home."""
    try:
        return bool(locate(text.encode(), home_of(0))[1])
    except StoreError:
        return False


def _clash(key: str, value: Hashable, other: Name) -> str:
    if key == "mac":
        return f"name: its derived MAC address is that of service {other}; choose another name"
    return f"{key}: {value} is already service {other}'s; choose another"
