"""`jitsu ls`: the services and how they are."""

import json
import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jitsu.cli.options import ConfigFile, Json, Run, ask

_COLUMNS = ("NAME", "STATE", "FOR", "BACKEND", "ADDRESS", "MEMORY", "SUMMONS", "FLOWS", "DNS")
_NO_LIMIT = 1 << 16
"""Columns; programs that read a table read it by line."""
_COLOURS = {"awake": "green", "booting": "yellow", "stopping": "yellow", "failed": "red"}


def command(run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the services: state, address, memory, summons, open connections; then what is wrong."""
    rows = ask(run, config, "ls")
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        # An address in two pieces could not be copied.
        table.add_column(column, overflow="fold", no_wrap=column != "DNS")
    for row in rows:
        colour = _COLOURS.get(row["state"], "dim")
        table.add_row(
            row["name"],
            f"[{colour}]{row['state']}[/]",
            _ago(row["since"]) if row["since"] else "-",
            row["backend"],
            "\n".join(row["addresses"]),
            f"{row['memory'] >> 20}MiB",
            str(row["summons"]),
            str(row["flows"]),
            "\n".join(row["dns"]),
        )
    console = Console(width=None if sys.stdout.isatty() else _NO_LIMIT)
    console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(f"{row['name']}: {escape(row['reason'])}", highlight=False)


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
