"""Where guests are that are suspended: one file each, below `[host] state`.

A file is of the daemon that had it written: what it knew of the guest, it knows no more when it has
ended. So whatever is left there of an earlier one is removed.
"""

from contextlib import suppress
from pathlib import Path

from jitsu.errors import HostError
from jitsu.model import Name


class Saved:
    """The folder of suspended guests."""

    def __init__(self, state: Path) -> None:
        """Use `state`/suspended; nothing happens before `clear`."""
        self._folder = state / "suspended"

    def clear(self) -> None:
        """Make the folder, for nobody else to read, and empty it. Raises HostError."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file in self._folder.iterdir():
                file.unlink()
        except OSError as error:
            raise HostError(f"{self._folder}: {error.strerror}") from error

    def file(self, name: Name) -> Path:
        """Return where the guest of a service is saved."""
        return self._folder / name

    def discard(self, name: Name) -> None:
        """Remove the file of a service, if there is one."""
        with suppress(OSError):  # what cannot be removed now is when the next daemon starts
            self.file(name).unlink(missing_ok=True)
