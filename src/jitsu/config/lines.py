"""Which line of a TOML file a key stands on; `tomllib` does not tell."""

import re

Location = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-\"' ]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-]+|\"[^\"]*\")\s*=")


class LineIndex:
    """Lines of tables and keys in a text that `tomllib` accepts.

    It knows the TOML that configurations are written in: tables, arrays of tables and one key a
    line. A location that it does not know gets the line of the nearest table above it.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {(): 1}
        self._seen: dict[str, int] = {}
        table: Location = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := _HEADER.match(line):
                table = self._table(header[2].strip("\"' "), array=header[1] == "[[")
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*table, key[1].strip('"')), number)

    def line(self, location: Location) -> int:
        """Return the line of `location`, or of the nearest thing above it that has one."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def _table(self, name: str, *, array: bool) -> Location:
        if not array:
            return tuple(name.split("."))
        index = self._seen.get(name, -1) + 1
        self._seen[name] = index
        return (name, index)
