"""Addresses that were allotted, kept across restarts."""

import json
import os
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from jitsu.errors import HostError
from jitsu.model import Name, Service

_FILE = "addresses.json"


def read(state: Path) -> dict[Name, IPv4Address]:
    """Return the addresses by service name; none if the file is not there.

    Raises HostError if it cannot be read.
    """
    try:
        stored = json.loads((state / _FILE).read_text())
        return {Name(name): IPv4Address(address) for name, address in stored.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HostError(f"{state / _FILE}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        what = "is damaged; delete it, and services without an address get new ones"
        raise HostError(f"{state / _FILE}: {what}") from error


def write(state: Path, services: Iterable[Service], earlier: dict[Name, IPv4Address]) -> None:
    """Keep the addresses of `services`, and those of services that may come back."""
    leases = earlier | {service.name: service.address for service in services}
    if leases == earlier:
        return
    try:
        state.mkdir(parents=True, exist_ok=True)
        new = state / f"{_FILE}.new"
        with new.open("w") as file:
            json.dump({name: str(address) for name, address in sorted(leases.items())}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(state / _FILE)
    except OSError as error:
        raise HostError(f"{state}: {error.strerror}; set [host] state to another folder") from error
