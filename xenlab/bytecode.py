"""Python's code, compiled beforehand."""

import compileall
from pathlib import Path
from py_compile import PycInvalidationMode


def compile_all(folder: Path, shown: str, mode: PycInvalidationMode) -> None:
    """Compile the Python files below `folder`, which dom0 knows as `shown`."""
    compileall.compile_dir(
        folder, ddir=shown, quiet=2, workers=0, maxlevels=30, invalidation_mode=mode
    )
