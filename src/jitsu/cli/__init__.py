"""The `jitsu` command: one file a verb, read only when the verb is used."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from jitsu.errors import ConfigError, JitsuError

VERBS = (
    *("demo", "serve", "check", "ls", "summon", "stop", "logs", "trace"),
    *("xenstored", "store", "bench"),
)


class _Verbs(TyperGroup):
    """Loads a verb when it is named: `jitsu ls` has no use for what `jitsu serve` imports."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  (the type is typer's own)
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        if cmd_name not in VERBS:
            return None
        module = import_module(f"jitsu.cli.{cmd_name}")
        if hasattr(module, "verbs"):
            group = typer.main.get_command(module.verbs)
            group.name = cmd_name
            return group
        verb = typer.Typer(add_completion=False)
        verb.command(name=cmd_name)(module.command)
        return typer.main.get_command(verb)


app = typer.Typer(
    cls=_Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def jitsu() -> None:
    """Summon unikernels just in time: a DNS query or a first packet boots the service."""


def main() -> None:
    """Run the command. Exits with 0 done, 1 failed, 2 wrong usage or configuration."""
    try:
        app()
    except ConfigError as error:
        _complain(*error.mistakes)
        sys.exit(2)
    except JitsuError as error:
        _complain(f"jitsu: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
