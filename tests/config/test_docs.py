"""docs/config.md says all that the file format has, and no more."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from jitsu import config
from jitsu.config.abilities import ABILITIES
from jitsu.config.shape import DirectoryShape, HostShape, NetworkShape, ServiceShape

TEXT = (Path(__file__).parent.parent.parent / "docs" / "config.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "## `[directory]`": DirectoryShape,
    "## `[network]`": NetworkShape,
    "## `[host]`": HostShape,
    "## `[[service]]`": ServiceShape,
}


def section(title: str) -> str:
    return TEXT.partition(f"\n{title}")[2].partition("\n## ")[0]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_has_its_row(title: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(title), re.MULTILINE)
    assert sorted(rows) == sorted(SECTIONS[title].model_fields)


def test_the_table_of_backends_is_that_of_the_code() -> None:
    rows = {
        name: tuple(map(str.strip, cells.split("|")))
        for name, cells in re.findall(
            r"^\| `(\w+)` \| (.*) \|$", section("## Backends"), re.MULTILINE
        )
    }

    def listed(values: tuple[str, ...]) -> str:
        return ", ".join(f"`{value}`" for value in values)

    said = {True: "yes", False: "no"}
    for name, can in ABILITIES.items():
        devices = {can.disks, can.nics}
        assert len(devices) == 1, "the table has one column for both"
        assert rows.pop(name) == (
            listed(can.stops),
            listed(can.ready),
            said[can.warm],
            said[devices.pop()],
        )
    assert list(rows) == ["backend"]  # its head


def test_the_complete_example_is_right(folder: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (folder / "hello.elf").write_bytes((folder / "www.elf").read_bytes())
    (folder / "jitsu.toml").write_text(example)
    loaded = config.load(folder / "jitsu.toml")
    assert [service.name for service in loaded.services] == ["www", "api"]


@pytest.mark.parametrize("example", sorted((Path(__file__).parents[2] / "examples").glob("*.toml")))
def test_the_examples_that_we_ship_are_right(folder: Path, example: Path) -> None:
    (folder / "hello.elf").write_bytes((folder / "www.elf").read_bytes())
    (folder / "hello.py").write_bytes((example.parent / "hello.py").read_bytes())
    (folder / "hello.py").chmod(0o755)
    copy = folder / example.name
    copy.write_text(example.read_text())
    assert config.load(copy, dom0=example.stem == "xen").services
