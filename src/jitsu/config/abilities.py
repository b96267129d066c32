"""What each backend can do of what may be asked of it: data, so that a new one is a new row.

Whatever is not in its row is refused by `jitsu check`, never ignored.
"""

from dataclasses import dataclass

from jitsu.model import StopMode

_ENDS = (StopMode.DESTROY, StopMode.SHUTDOWN)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What may be asked of a backend."""

    stops: tuple[StopMode, ...]
    ready: tuple[str, ...]
    """The kinds of `ready`, as they are written."""
    warm: bool = False
    disks: bool = False
    nics: bool = False


ABILITIES = {
    "qemu": Abilities(
        (*_ENDS, StopMode.PAUSE), ("frame", "tcp:PORT", "delay:SECONDS", "key:PATH"), warm=True
    ),
    "xen": Abilities(
        (*_ENDS, StopMode.PAUSE, StopMode.SUSPEND),
        ("frame", "tcp:PORT", "delay:SECONDS", "key:PATH"),
        warm=True,
        disks=True,
        nics=True,
    ),
    "process": Abilities(_ENDS, ("frame", "tcp:PORT", "delay:SECONDS")),
}


def mistakes(backend: str, stop: StopMode, ready: str, asked: dict[str, bool]) -> dict[str, str]:
    """Return by key what a backend cannot do, and what to do; `asked` names further keys.

    `backend` is one of `ABILITIES`. The kind of `ready` is not checked if it is none.
    """
    can = ABILITIES[backend]
    found: dict[str, str] = {}
    if stop not in can.stops:
        found["stop"] = f"{stop} is not what backend {backend} can do; use {_one_of(can.stops)}"
    kind = ready.partition(":")[0]
    if kind == "key" and "key:PATH" not in can.ready:
        found["ready"] = f"key is not what backend {backend} can do; use {_one_of(can.ready)}"
    for key, is_asked in asked.items():
        if is_asked and not getattr(can, key):
            found[key] = f"is not what backend {backend} can do; leave it out"
    return found


def _one_of(choices: tuple[object, ...]) -> str:
    first, last = choices[:-1], choices[-1]
    return f"{', '.join(map(str, first))} or {last}"
