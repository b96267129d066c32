"""`jitsu stop`: let a service go now."""

import json

from jitsu.cli.options import ConfigFile, Json, Name, Run, ask


def command(name: Name, run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Stop a service, used or not, and return when it is gone; a request wakes it again."""
    row = ask(run, config, "stop", name=name)
    print(json.dumps(row, indent=2) if as_json else f"{name} is {row['state']}")
