"""`jitsu bench`: measure this host, side by side with what it is compared with."""

import json
from typing import Annotated

import typer

from jitsu.bench import dns
from jitsu.cli.options import Json
from jitsu.errors import JitsuError

BENCHES = {"dns": dns.run}


def command(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")],
    as_json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
) -> None:
    """Run one benchmark."""
    if name not in BENCHES:
        raise JitsuError(f"no benchmark is called {name}; there are: {', '.join(BENCHES)}")
    print(json.dumps(BENCHES[name](quick), indent=2) if as_json else BENCHES[name](quick))
