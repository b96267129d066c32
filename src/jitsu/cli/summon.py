"""`jitsu summon`: wake a service now."""

import json

from jitsu.cli.options import ConfigFile, Json, Name, Run, ask


def command(name: Name, run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Wake a service, and return when it serves."""
    row = ask(run, config, "summon", name=name)
    print(json.dumps(row, indent=2) if as_json else f"{name} is {row['state']}")
