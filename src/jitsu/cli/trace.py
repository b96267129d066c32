"""`jitsu trace`: where the time of a summons went."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jitsu.cli.options import ConfigFile, Json, Name, Run, ask

WIDTH = 34


def command(name: Name, run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the waterfall of a service's last summons."""
    waterfall = ask(run, config, "trace", name=name)
    if as_json:
        print(json.dumps(waterfall, indent=2))
    else:
        draw(waterfall)


def draw(waterfall: dict[str, Any]) -> None:
    """Print a waterfall: one bar a stage, all on one scale."""
    console = Console(highlight=False)
    total = max(waterfall["total_us"], 1)
    took = f"[bold]{total / 1000:.2f} ms[/]"
    if failed := waterfall.get("failed"):
        took = (
            f"[red]failed[/] after {failed['after_us'] / 1000:.0f} ms: {escape(failed['reason'])}"
        )
    console.print(
        f"[bold]{waterfall['service']}[/], summoned by {waterfall['cause']}, "
        f"boot {waterfall['epoch']}: {took}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, width=WIDTH)
    for stage in waterfall["stages"]:
        at, took = stage["at_us"], stage["took_us"]
        begin = min(WIDTH - 1, at * WIDTH // total)
        length = max(1, min(WIDTH - begin, round(took * WIDTH / total)))
        bar = Text(" " * begin) + Text("━" * length if took else "╸", style="cyan")
        table.add_row(stage["name"], f"{at / 1000:.2f}", f"+{took / 1000:.2f} ms", bar)
    console.print(table)
