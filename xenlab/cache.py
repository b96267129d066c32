"""What is kept between labs, below $XDG_CACHE_HOME: each thing is there whole, or not at all."""

import os
import shutil
import tempfile
from pathlib import Path


def cache() -> Path:
    """Return the folder where the lab keeps what it need not build again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jitsu" / "xenlab"


def half_made(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder beside `folder` to build it in, which goes away if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-")


def publish(staging: Path, folder: Path) -> None:
    """Make `staging`'s subfolder `done` to `folder`, unless another was quicker."""
    try:
        (staging / "done").rename(folder)
    except OSError:
        if not folder.exists():
            raise


def forget(pattern: str, kept: int) -> None:
    """Remove what matches `pattern` in the cache but for the `kept` newest."""
    made = sorted(cache().glob(pattern), key=lambda path: path.stat().st_mtime)
    for path in made[: len(made) - kept]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
