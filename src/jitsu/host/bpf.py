"""bpf(2): one object file's map and programs, without a library.

An object that clang has made for BPF is an ELF file: instructions in a section a program, the
shape of the map in a section `maps`, and relocations that say which instructions load the map.
Maps and programs are descriptors; the kernel lets them go with the last that has them.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from jitsu.errors import HostError

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD = range(6)
_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS
_PSEUDO_MAP_FD = 1
_INSTRUCTION_BYTES = 8
_ATTRIBUTES_BYTES = 128
_LOG_BYTES = 1 << 18
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_RELOCATION = struct.Struct("<QQ")
_EXECUTABLE, _REL = 4, 9  # SHF_EXECINSTR, SHT_REL
_libc = ctypes.CDLL(None, use_errno=True)


class Map:
    """A hash map of the kernel."""

    def __init__(self, shape: bytes) -> None:
        """Make one of the shape that its object says. Raises OSError."""
        _, self._key_bytes, self._value_bytes, self.entries, _ = struct.unpack("<5I", shape)
        self.fd = _bpf(_MAP_CREATE, shape)

    def close(self) -> None:
        """Let it go."""
        os.close(self.fd)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, if it is there. Raises OSError."""
        value = ctypes.create_string_buffer(self._value_bytes)
        return value.raw if self._call(_MAP_LOOKUP, key, value) else None

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of `key`. Raises OSError."""
        assert (len(key), len(value)) == (self._key_bytes, self._value_bytes)
        self._call(_MAP_UPDATE, key, ctypes.create_string_buffer(value, len(value)))

    def remove(self, key: bytes) -> bool:
        """Take out `key`; say whether it was there. Raises OSError."""
        return self._call(_MAP_DELETE, key, None)

    def keys(self) -> Iterator[bytes]:
        """Yield the keys. Raises OSError.

        One that is removed meanwhile may have those that were seen come again; not without end.
        """
        following = ctypes.create_string_buffer(self._key_bytes)
        last: bytes | None = None
        for _ in range(self.entries):
            if not self._call(_MAP_NEXT_KEY, last, following):
                return
            last = following.raw
            yield last

    def _call(
        self, command: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None
    ) -> bool:
        held = ctypes.create_string_buffer(key, len(key)) if key is not None else None
        attributes = struct.pack("<IxxxxQQQ", self.fd, _address(held), _address(value), 0)
        try:
            _bpf(command, attributes)
        except FileNotFoundError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Loaded:
    """A map and programs that the kernel has verified; `programs` are descriptors by section."""

    map: Map
    programs: dict[str, int]

    def close(self) -> None:
        """Let them go."""
        for fd in self.programs.values():
            os.close(fd)
        self.map.close()


def load(path: Path) -> Loaded:
    """Load an object's map and its programs, which are for tc. Raises HostError."""
    try:
        code = _Object(path.read_bytes())
    except (OSError, ValueError, KeyError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no object for BPF"
        raise HostError(f"{path}: {reason}; build it with `make image`") from error
    try:
        with ExitStack() as undo:
            flows = Map(code.sections["maps"])
            undo.callback(flows.close)
            programs = {}
            for name in code.programs:
                programs[name] = _program(name, code.linked(name, flows.fd), code.license)
                undo.callback(os.close, programs[name])
            undo.pop_all()
            return Loaded(flows, programs)
    except OSError as error:
        hints = {errno.EPERM: "; run as root, outside of user namespaces"}
        hint = hints.get(error.errno or 0, "")
        raise HostError(f"the kernel refuses BPF: {error.strerror}{hint}") from error


class _Object:
    """An ELF file of 64 bits, little-endian."""

    def __init__(self, data: bytes) -> None:
        """Take it apart. Raises ValueError, KeyError or struct.error for what is none."""
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        headers = [_SECTION_HEADER.unpack_from(data, at + i * size) for i in range(count)]
        strings = headers[names][4]

        def name_of(i: int) -> str:
            start = strings + headers[i][0]
            return data[start : data.index(b"\0", start)].decode()

        bodies = [data[header[4] : header[4] + header[5]] for header in headers]
        self.sections = {name_of(i): body for i, body in enumerate(bodies)}
        self.license = self.sections["license"]
        self.programs = [
            name_of(i) for i, h in enumerate(headers) if h[2] & _EXECUTABLE and bodies[i]
        ]
        self._relocations = {
            name_of(h[7]): [offset for offset, _ in _RELOCATION.iter_unpack(bodies[i])]
            for i, h in enumerate(headers)
            if h[1] == _REL
        }

    def linked(self, name: str, fd: int) -> bytes:
        """Return a program whose loads of the map, the only one, load that of `fd`."""
        code = bytearray(self.sections[name])
        for offset in self._relocations.get(name, []):
            code[offset + 1] |= _PSEUDO_MAP_FD << 4  # the source register says what is loaded
            struct.pack_into("<I", code, offset + 4, fd)
        return bytes(code)


def _program(name: str, code: bytes, license_: bytes) -> int:
    """Load a program; return its descriptor. Raises OSError with the verifier's last words."""
    text = ctypes.create_string_buffer(code, len(code))
    words = ctypes.create_string_buffer(license_)
    log = ctypes.create_string_buffer(_LOG_BYTES)

    def attributes(level: int) -> bytes:
        return struct.pack(
            "<IIQQIIQII16s",
            *(_SCHED_CLS, len(code) // _INSTRUCTION_BYTES, _address(text), _address(words)),
            *(level, _LOG_BYTES if level else 0, _address(log) if level else 0, 0, 0),
            name.encode()[:15],
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0))
    except PermissionError:
        raise
    except OSError as error:
        # Once more, for its reasons: to write them down costs more than to verify.
        with suppress(OSError):
            return _bpf(_PROG_LOAD, attributes(1))
        said = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(error.errno, f"{name}: {said[-2 if len(said) > 1 else -1]}") from error


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "not known on this machine")
    block = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES)
    result = int(_libc.syscall(number, command, block, _ATTRIBUTES_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
