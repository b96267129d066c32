"""`jitsu bench`: measure this host, side by side with what it is compared with."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jitsu.bench import boot, coldstart, dns, neighbour, xenstore, xenstores
from jitsu.cli.options import Json
from jitsu.errors import JitsuError
from jitsu.host.netns import become_root

BENCHES = {
    "boot": boot.run,
    "coldstart": coldstart.run,
    "dns": dns.run,
    "neighbour": neighbour.run,
    "xenstore": xenstore.run,
}


def command(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")],
    as_json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
    runs: Annotated[
        int | None, typer.Option(min=2, help="Of coldstart: how often each mode is tried.")
    ] = None,
    xen: Annotated[
        bool,
        typer.Option(
            "--xen",
            help="Of xenstore: starts of real domains, on each store in turn as dom0's. Only in a "
            "dom0 that you start again afterwards: its kernel does not notice the exchange.",
        ),
    ] = False,
) -> None:
    """Run one benchmark."""
    if name not in BENCHES:
        raise JitsuError(f"no benchmark is called {name}; there are: {', '.join(BENCHES)}")
    if runs is not None and name != "coldstart":
        raise typer.BadParameter(f"{name} has no runs; leave --runs out")
    if xen and name != "xenstore":
        raise typer.BadParameter(f"{name} is no comparison of stores; leave --xen out")
    become_root()
    work = xenstores.run if xen else BENCHES[name]
    rows = coldstart.run(quick, runs) if runs else work(quick)
    if as_json:
        print(json.dumps({"bench": name, "host": host(), "rows": rows}, indent=2))
    else:
        _show(rows)


def host() -> dict[str, str]:
    """Describe this host, as every figure's reader wants to know."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    kvm = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "none"
    return {"cpu": f"{os.cpu_count()} x {cpu}", "kernel": platform.release(), "accel": kvm}


def _show(rows: list[dict[str, object]]) -> None:
    keys = dict.fromkeys(key for row in rows for key in row)
    table = Table(box=None, pad_edge=False)
    for key in keys:
        text = key in ("what", "unit")
        table.add_column(key.upper(), justify="left" if text else "right", no_wrap=key == "what")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in keys))
    # In a pipe the table is as wide as it is.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
