"""Options that several verbs share, and how they find the daemon."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jitsu.api import control

DEFAULT_RUN = Path("/run/jitsu")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[
    Path | None, typer.Option("--run", help=f"The daemon's folder; default {DEFAULT_RUN}.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", help="Find the daemon by its configuration.")
]
Name = Annotated[str, typer.Argument(help="The service's name.")]


def ask(run: Path | None, config: Path | None, verb: str, **arguments: object) -> Any:  # noqa: ANN401
    """Have the daemon do `verb`. Raises ControlError, and ConfigError if `config` is wrong."""
    return control.request(folder_of(run, config) or DEFAULT_RUN, verb, **arguments)


def folder_of(run: Path | None, config: Path | None) -> Path | None:
    """Return the folder that either option names. Raises ConfigError if `config` is wrong."""
    if run is None and config is not None:
        from jitsu import config as configuration  # slow, rarely needed

        return Path(configuration.load(config).host.run)
    return run
