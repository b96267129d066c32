"""What a client of the control socket may ask of a daemon."""

import time
from typing import Any

from jitsu.daemon import Daemon
from jitsu.errors import ControlError
from jitsu.model import Name, State


class Verbs:
    """The verbs of one daemon, by name."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def __call__(self, request: dict[str, Any]) -> Any:  # noqa: ANN401  (JSON)
        """Do one request. Raises ControlError."""
        match request:
            case {"verb": "ls"}:
                return [_dated(row) for row in await self._daemon.services()]
            case {"verb": "counters"}:
                return self._daemon.counters()
            case {"verb": "summon", "name": str(name)}:
                return await self._summon(Name(name))
            case {"verb": "stop", "name": str(name)}:
                return {"name": name, "state": str(await self._daemon.dismiss(Name(name)))}
            case {"verb": "logs", "name": str(name)}:
                return self._daemon.console(Name(name))
            case {"verb": "trace", "name": str(name)}:
                return _dated(self._daemon.waterfall(Name(name)))
            case _:
                raise ControlError(f"not a request that this version knows: {request}")

    async def _summon(self, name: Name) -> dict[str, object]:
        state = await self._daemon.summon(name)
        rows = await self._daemon.services()
        (row,) = (row for row in rows if row["name"] == name)
        if state is not State.AWAKE:
            hint = f"; see `jitsu logs {name}`" if self._daemon.ran(name) else ""
            raise ControlError(f"{name} {state}: {row['reason']}{hint}")
        return _dated(row)


def _dated(row: dict[str, object]) -> dict[str, object]:
    """Turn times of the monotonic clock into Unix time."""
    shift = time.time() - time.monotonic()
    for key in ("since", "last_request", "started"):
        value = row.get(key)
        if isinstance(value, float):
            row[key] = round(value + shift, 6)
    return row
