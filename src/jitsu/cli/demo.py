"""`jitsu demo`: the main job, for real, on this machine, in namespaces of its own."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jitsu.bench.demo import Result, demo
from jitsu.cli.options import Json
from jitsu.cli.trace import draw
from jitsu.host.netns import become_root


def command(
    runs: Annotated[int, typer.Option("--runs", min=1, help="Repeat; figures are medians.")] = 3,
    as_json: Json = False,
    without: Annotated[
        bool, typer.Option(help="Also measure without Synjitsu: a second for each run.")
    ] = True,
) -> None:
    """Send a DNS query for a service that sleeps, and request its page, with real clients.

    Needs no configuration. The virtual machine that answers did not exist when the query was sent.
    """
    become_root()
    result = Result()
    with demo() as world:
        steps = range(runs)
        console = Console(stderr=True)
        shown = steps if as_json else track(steps, "summoning", console=console, transient=True)
        for _ in shown:
            world.measure(result, with_without=without)
    if as_json:
        print(json.dumps(result.report()))
    else:
        _show(result)


def _show(result: Result) -> None:
    report = result.report()
    console = Console(highlight=False)
    draw(result.trace)
    console.print()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim")
    for key, name, what in (
        ("floor_ms", "floor", "a bare QEMU, executed: to its guest's first frame"),
        ("cold_ms", "cold", "DNS query to first byte; no guest ran before"),
        ("without_synjitsu_ms", "cold, without", "the same without Synjitsu: the SYN is lost"),
        ("warm_ms", "warm", "the same, the service awake"),
    ):
        if report[key]:
            table.add_row(name, f"{report[key]:.2f} ms", what)
    console.print(table)
    resets = "some" if report["client_saw_rst"] else "no"
    console.print(
        f"\nHTTP {report['http_status']}, {report['syn_retransmits']} SYN retransmitted, "
        f"{resets} RST seen; medians of {report['runs']} runs"
    )
