from pathlib import Path

import pytest

from config.elf import elf64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image, for configurations that are right."""
    (tmp_path / "www.elf").write_bytes(elf64())
    return tmp_path
