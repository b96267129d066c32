"""`jitsu logs`: what a service's guests have said."""

import json

from jitsu.cli.options import ConfigFile, Json, Name, Run, ask


def command(name: Name, run: Run = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print the last of a service's console, its earlier guests' included."""
    text = ask(run, config, "logs", name=name)
    if as_json:
        print(json.dumps({"service": name, "console": text}))
    else:
        print(text, end="" if text.endswith("\n") or not text else "\n")
