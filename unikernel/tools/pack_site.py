#!/usr/bin/env python3
"""Write the files of a directory as one C file: `pack_site.py site build/site.c`."""

import sys
from pathlib import Path

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


def array(number: int, data: bytes) -> str:
    """The file's bytes as a C array."""
    lines = (data[start : start + 16] for start in range(0, len(data), 16))
    rows = "\n".join("\t" + " ".join(f"{byte}," for byte in line) for line in lines)
    return f"static const uint8_t file_{number}[] = {{\n{rows}\n}};\n"


def entries(number: int, path: str, content_type: str) -> list[str]:
    """The file under its own name, and an index.html under its directory's too."""
    names = [path]
    if path.endswith("/index.html"):
        names.append(path.removesuffix("index.html"))
    return [
        f'\t{{ "{name}", "{content_type}", file_{number}, sizeof(file_{number}) }},\n'
        for name in names
    ]


def pack(site: Path) -> str:
    """The whole C file."""
    arrays, table = [], []
    for number, file in enumerate(sorted(p for p in site.rglob("*") if p.is_file())):
        data = file.read_bytes()
        if not data:
            sys.exit(f"{file}: empty")
        if file.suffix not in TYPES:
            sys.exit(f"{file}: unknown type; add it to {Path(__file__).name}")
        arrays.append(array(number, data))
        table += entries(number, f"/{file.relative_to(site).as_posix()}", TYPES[file.suffix])
    return "".join(
        [
            '/* Made by tools/pack_site.py. */\n#include "http.h"\n\n',
            *arrays,
            "\nconst struct site_file site_files[] = {\n",
            *table,
            "};\nconst size_t site_files_count = sizeof(site_files) / sizeof(site_files[0]);\n",
        ]
    )


def main() -> None:
    """Pack the directory of the first argument into the file of the second."""
    site, output = map(Path, sys.argv[1:])
    output.write_text(pack(site))


if __name__ == "__main__":
    main()
