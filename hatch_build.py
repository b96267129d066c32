"""Build what is compiled before it is packed, where it is not there yet."""

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Run `make` in the folders whose images are not in the tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files of `src/jitsu/images`; an editable install does without."""
        if version == "editable":
            return
        for folder, image in (
            ("unikernel", "hello.elf"),
            ("unikernel", "xen/hello.elf"),
            ("bpf", "splice.o"),
            ("forkserver", "forkserver.so"),
            ("launcher", "launcher"),
        ):
            if not Path(self.root, "src/jitsu/images", image).exists():
                subprocess.run(["make", "-C", str(Path(self.root, folder))], check=True)
