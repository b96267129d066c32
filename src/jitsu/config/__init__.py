"""The operator's TOML file to `jitsu.model.Config`, every mistake named by file, line and key.

Three passes, each of which reports all of its mistakes at once:

1. `tomllib`    syntax
2. `shape`      unknown keys, types, ranges (pydantic)
3. `sense`      what must make sense together: names and addresses that clash, images not there

Whatever comes out is right: nothing downstream checks again.
"""

import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import ValidationError

from jitsu.config.lines import LineIndex
from jitsu.config.sense import Sense
from jitsu.config.shape import FileShape, mistake_of
from jitsu.errors import ConfigError
from jitsu.model import Config, Name

__all__ = ["load"]


def load(path: Path, leases: Mapping[Name, IPv4Address] | None = None) -> Config:
    """Read the configuration at `path`.

    `leases` are the addresses that earlier runs allotted to services that name none; they keep
    them. Raises ConfigError with every mistake of the first pass that finds any.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error
    index = LineIndex(text)
    try:
        shape = FileShape.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_mistake(path, error)]) from error
    except ValidationError as error:
        mistakes = [mistake_of(detail) for detail in error.errors()]
        raise ConfigError([f"{path}:{index.line(loc)}: {what}" for loc, what in mistakes]) from None
    sense = Sense(shape, path.parent.resolve(), leases or {})
    config = sense.config()
    if sense.mistakes:
        raise ConfigError([f"{path}:{index.line(loc)}: {what}" for loc, what in sense.mistakes])
    return config


def _syntax_mistake(path: Path, error: tomllib.TOMLDecodeError) -> str:
    what, _, where = str(error).partition(" (at ")
    if not where.startswith("line "):
        return f"{path}: not TOML: {error}"
    line = where.removeprefix("line ").partition(",")[0]
    return f"{path}:{line}: not TOML: {what}"
