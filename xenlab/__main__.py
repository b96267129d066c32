"""`python -m xenlab build|run|shell`: the lab by hand."""

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from xenlab import terminal
from xenlab.errors import LabError
from xenlab.image import image
from xenlab.lab import Lab, lab, shell_line
from xenlab.marker import STORES
from xenlab.tree import ROOT

_TIMEOUT = 600
"""Seconds for a command: nothing that is run by hand takes longer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        match options.verb:
            case "build":
                print(image().folder)
                return 0
            case "run":
                return run(options)
            case _:
                return shell(options)
    except LabError as error:
        print(f"xenlab: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Run one command in a lab; print what it prints, return its exit code."""
    with lab(
        shell_line(options.command), store=options.store, files=options.file, cpus=options.cpus
    ) as running:
        timer = threading.Timer(options.timeout, running.process.kill)
        timer.start()
        try:
            for chunk in iter(lambda: running.output.recv(65536), b""):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            return _exit_code(running)
        finally:
            timer.cancel()


def shell(options: argparse.Namespace) -> int:
    """Give a person a shell in dom0; return its exit code."""
    print("booting Xen and dom0...", file=sys.stderr)
    with lab(
        terminal.job(str(ROOT)),
        store=options.store,
        files=options.file,
        cpus=options.cpus,
        terminal=True,
    ) as running:
        terminal.relay(running.output)
        return _exit_code(running)


def _exit_code(running: Lab) -> int:
    """Return the exit code that the lab has reported; raises LabError if it has not."""
    reported = running.report.makefile().readlines()
    if not reported:
        raise LabError(
            f"the lab ended before its job did; its console ({running.log}):\n{running.console()}"
        )
    code: int = json.loads(reported[-1])["exit"]
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xenlab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build the lab's image, if need be, and say where it is")
    for verb, said in (("run", "run one command in dom0"), ("shell", "a shell in dom0")):
        sub = verbs.add_parser(verb, help=said)
        sub.add_argument("--store", choices=STORES, default=STORES[0], help="dom0's XenStore")
        sub.add_argument(
            "--file", type=Path, action="append", default=[], help="copied to the job's folder"
        )
        sub.add_argument("--cpus", type=int, default=1, help="Xen's processors; dom0 has one")
        if verb == "run":
            sub.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds")
            sub.add_argument("command", nargs="+", help="after --, with its arguments")
    return parser


if __name__ == "__main__":
    sys.exit(main())
