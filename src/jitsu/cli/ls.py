"""`jitsu ls`: the services and how they are."""

import json
import time

from rich.console import Console
from rich.table import Table

from jitsu.cli.options import ConfigFile, Json, Run, ask

_COLOURS = {"awake": "green", "booting": "yellow", "stopping": "yellow", "failed": "red"}


def command(run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the services: state, address, memory, summons, open connections."""
    rows = ask(run, config, "ls")
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in (
        "NAME",
        "STATE",
        "FOR",
        "BACKEND",
        "ADDRESS",
        "MEMORY",
        "SUMMONS",
        "FLOWS",
        "DNS",
    ):
        table.add_column(column, overflow="fold")
    for row in rows:
        colour = _COLOURS.get(row["state"], "dim")
        table.add_row(
            row["name"],
            f"[{colour}]{row['state']}[/]",
            _ago(row["since"]) if row["summons"] or row["state"] != "asleep" else "-",
            row["backend"],
            "\n".join(row["addresses"]),
            f"{row['memory'] >> 20}MiB",
            str(row["summons"]),
            str(row["flows"]),
            "\n".join(row["dns"]),
        )
    Console().print(table)


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
