"""The operator's TOML file to `jitsu.model.Config`, every mistake named by file, line and key.

Three passes, each of which reports all of its mistakes at once:

1. `tomllib`    syntax
2. `shape`      unknown keys, types, ranges (pydantic)
3. `sense`      what must make sense together: names and addresses that clash, images not there

Whatever comes out is right: nothing downstream checks again.
"""

import stat
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from operator import itemgetter
from pathlib import Path

from pydantic import ValidationError

from jitsu.config.hypervisor import is_dom0
from jitsu.config.lines import LineIndex, Location
from jitsu.config.sense import Sense
from jitsu.config.shape import FileShape, mistake_of
from jitsu.errors import ConfigError
from jitsu.model import Config, Name

__all__ = ["load"]


def load(
    path: Path, leases: Mapping[Name, IPv4Address] | None = None, dom0: bool | None = None
) -> Config:
    """Read the configuration at `path`.

    `leases` are the addresses that earlier runs allotted to services that name none; they keep
    them. `dom0` says whether it is for a host that controls Xen, if not for this very one.
    Raises ConfigError with every mistake of the first pass that finds any.
    """
    text = _read(path)
    index = LineIndex(text)
    try:
        shape = FileShape.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_mistake(path, error)]) from error
    except ValidationError as error:
        raise _config_error(path, index, map(mistake_of, error.errors())) from None
    except (ValueError, RecursionError) as error:  # tomllib lets a few through
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    sense = Sense(shape, path.parent.resolve(), leases or {}, is_dom0() if dom0 is None else dom0)
    config = sense.config()
    if sense.mistakes:
        raise _config_error(path, index, sense.mistakes)
    return config


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO would be to wait for its writer
            raise ConfigError([f"{path}: cannot be read: is no regular file"])
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error


def _config_error(
    path: Path, index: LineIndex, mistakes: Iterable[tuple[Location, str]]
) -> ConfigError:
    """Return the mistakes in the order of their lines, each on one line."""
    found = sorted(((index.line(loc), what) for loc, what in mistakes), key=itemgetter(0))
    return ConfigError([f"{path}:{line}: {_printable(what)}" for line, what in found])


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _syntax_mistake(path: Path, error: tomllib.TOMLDecodeError) -> str:
    what, _, where = str(error).partition(" (at ")
    if not where.startswith("line "):
        return f"{path}: not TOML: {error}"
    line = where.removeprefix("line ").partition(",")[0]
    return f"{path}:{line}: not TOML: {what}"
