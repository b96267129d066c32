"""Which line of a TOML file a key stands on; `tomllib` does not tell."""

import re

Location = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_\-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"({_PART}(?:\s*\.\s*{_PART})*)"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*{_DOTTED}\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(rf"^\s*{_DOTTED}\s*=")


class LineIndex:
    """Lines of tables and keys in a text that `tomllib` accepts.

    It knows the TOML that configurations are written in: tables, arrays of tables and one key a
    line. A location that it does not know gets the line of the nearest table above it.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {(): 1}
        self._seen: dict[Location, int] = {}
        table: Location = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := _HEADER.match(line):
                table = self._table(_parts(header[2]), array=header[1] == "[[")
                self._note(table, number)
            elif key := _KEY.match(line):
                self._note((*table, *_parts(key[1])), number)

    def line(self, location: Location) -> int:
        """Return the line of `location`, or of the nearest thing above it that has one."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def _note(self, location: Location, number: int) -> None:
        """Note a line for what begins there, and for what it begins: `a.b = 1` begins `a`."""
        for length in range(1, len(location) + 1):
            self._lines.setdefault(location[:length], number)

    def _table(self, name: Location, *, array: bool) -> Location:
        if not array:
            return name
        index = self._seen.get(name, -1) + 1
        self._seen[name] = index
        return (*name, index)


def _parts(dotted: str) -> Location:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))
