#!/usr/bin/env python3
"""Write the files of a directory as one C file: `pack_site.py site build/site.c`.

Each becomes an answer that is ready to send, head and body in one piece. What is in the
head is decided here and, for all other answers, by write_head() of apps/http_reply.c.
"""

import sys
from pathlib import Path

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


def head(data: bytes, content_type: str) -> bytes:
    """The answer's head, for a connection that stays."""
    lines = [
        "HTTP/1.1 200 OK",
        f"Content-Length: {len(data)}",
        f"Content-Type: {content_type}",
        "Cache-Control: no-store",
        "Connection: keep-alive",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def array(number: int, data: bytes) -> str:
    """The answer's bytes as a C array."""
    lines = (data[start : start + 16] for start in range(0, len(data), 16))
    rows = "\n".join("\t" + " ".join(f"{byte}," for byte in line) for line in lines)
    return f"static const uint8_t answer_{number}[] = {{\n{rows}\n}};\n"


def entries(number: int, path: str, content_type: str, head_size: int) -> list[str]:
    """The file under its own name, and an index.html under its directory's too."""
    answer = f"answer_{number}, {head_size}, sizeof(answer_{number})"
    names = [path]
    if path.endswith("/index.html"):
        names.append(path.removesuffix("index.html"))
    return [f'\t{{ {{ "{name}", {len(name)} }}, "{content_type}", {answer} }},\n' for name in names]


def pack(site: Path) -> str:
    """The whole C file."""
    arrays, table = [], []
    for number, file in enumerate(sorted(p for p in site.rglob("*") if p.is_file())):
        data = file.read_bytes()
        if not data:
            sys.exit(f"{file}: empty")
        if file.suffix not in TYPES:
            sys.exit(f"{file}: unknown type; add it to {Path(__file__).name}")
        path, content_type = f"/{file.relative_to(site).as_posix()}", TYPES[file.suffix]
        top = head(data, content_type)
        arrays.append(array(number, top + data))
        table += entries(number, path, content_type, len(top))
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
