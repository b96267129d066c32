"""Compare the structures with those of the C headers, field by field."""

import ctypes
import shutil
import subprocess
from pathlib import Path

from jitsu.host.xen import layout


def _program() -> str:
    lines = []
    for structure, name in layout.C_NAMES.items():
        lines.append(f'printf("{structure.__name__} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("{structure.__name__}.{field[0]} %zu %zu\\n", '
            f"offsetof({name}, {field[0]}), sizeof((({name} *)0)->{field[0]}));"
            for field in structure._fields_
        ]
    includes = "".join(f"#include <{h}.h>\n" for h in ("stdio", "stddef", "xenctrl", "xenguest"))
    return f"{includes}int main(void) {{ {' '.join(lines)} return 0; }}"


def test_every_field_is_where_the_headers_have_it(tmp_path: Path) -> None:
    source, binary = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(_program())
    compiler = shutil.which("cc")
    assert compiler
    subprocess.run([compiler, "-o", binary, source], check=True, timeout=60)
    said = subprocess.run([binary], check=True, capture_output=True, text=True, timeout=60).stdout
    ours = []
    for structure in layout.C_NAMES:
        ours.append(f"{structure.__name__} {ctypes.sizeof(structure)}")
        for field in structure._fields_:
            at = getattr(structure, field[0])
            ours.append(f"{structure.__name__}.{field[0]} {at.offset} {at.size}")
    assert said.splitlines() == ours
