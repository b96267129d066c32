"""Build the demo's guest before it is packed, where it is not there yet."""

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Run `make -C unikernel` unless the image is already in the tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make `src/jitsu/images/hello.elf`; an editable install does without."""
        image = Path(self.root, "src/jitsu/images/hello.elf")
        if version != "editable" and not image.exists():
            subprocess.run(["make", "-C", str(Path(self.root, "unikernel"))], check=True)
