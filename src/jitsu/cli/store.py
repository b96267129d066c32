"""`jitsu store`: look into a XenStore and change it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from jitsu import store
from jitsu.cli.options import DEFAULT_RUN, ConfigFile, Json, Run, folder_of
from jitsu.core.xenstore.errors import StoreError
from jitsu.errors import ControlError, JitsuError

verbs = typer.Typer(add_completion=False, no_args_is_help=True, help="Look into a XenStore.")

Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket", help="The store's socket; default $XENSTORED_PATH, else the daemon's."
    ),
]
Node = Annotated[str, typer.Argument(help="A path, such as /local/domain/0.")]

_ESCAPES = {0x0A: r"\n", 0x5C: r"\\"}
_MEANS = {
    "ENOENT": "there is no such node",
    "EACCES": "the store does not permit it",
    "EINVAL": "that is no path, or not what the store expects",
    "E2BIG": "that is too long",
    "ENOSPC": "the quota is used up",
}


class Row(NamedTuple):
    """One node, as it is shown."""

    path: str
    value: bytes
    perms: list[str]

    def described(self) -> dict[str, object]:
        """Return it for JSON."""
        row: dict[str, object] = {"path": self.path, "value": printable(self.value)}
        return row | {"perms": self.perms} if self.perms else row


@verbs.command("ls")
def ls(
    path: Node = "/",
    perms: Annotated[bool, typer.Option("-p", "--perms", help="Show permissions.")] = False,
    socket: Socket = None,
    run: Run = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show a node and all below it."""

    async def show(client: store.Client) -> None:
        rows = [row async for row in _tree(client, os.fsencode(path), perms=perms)]
        if as_json:
            print(json.dumps([row.described() for row in rows], indent=2))
            return
        for row in rows:
            rights = f"   ({','.join(row.perms)})" if row.perms else ""
            print(f'{row.path} = "{printable(row.value)}"{rights}')

    _with(show, path, socket, run, config)


@verbs.command("read")
def read(
    path: Node,
    socket: Socket = None,
    run: Run = None,
    config: ConfigFile = None,
    as_json: Json = False,
    raw: Annotated[bool, typer.Option("--raw", help="The bytes as they are.")] = False,
) -> None:
    """Print a node's value."""

    async def show(client: store.Client) -> None:
        value = await client.read(os.fsencode(path))
        if raw:
            sys.stdout.buffer.write(value)
        elif as_json:
            print(json.dumps({"path": path, "value": printable(value)}))
        else:
            print(printable(value))

    _with(show, path, socket, run, config)


@verbs.command("write")
def write(
    path: Node,
    value: Annotated[str, typer.Argument(help=r"Its value; \\xNN and \\n stand for bytes.")],
    socket: Socket = None,
    run: Run = None,
    config: ConfigFile = None,
) -> None:
    """Set a node's value, and make the node if need be."""
    data = parse_value(value)
    _with(lambda client: client.write(os.fsencode(path), data), path, socket, run, config)


@verbs.command("rm")
def rm(path: Node, socket: Socket = None, run: Run = None, config: ConfigFile = None) -> None:
    """Remove a node and all below it."""

    async def remove(client: store.Client) -> None:
        await client.read(os.fsencode(path))  # the store itself is content if it is not there
        await client.remove(os.fsencode(path))

    _with(remove, path, socket, run, config)


@verbs.command("watch")
def watch(
    path: Node,
    count: Annotated[int, typer.Option("-n", help="End after so many events; 0: never.")] = 0,
    socket: Socket = None,
    run: Run = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print each path that changes at or below a node, first the node itself."""

    async def follow(client: store.Client) -> None:
        left = count
        async with client.watch(os.fsencode(path)) as events:
            async for changed in events:
                text = changed.decode()
                print(json.dumps({"path": text}) if as_json else text, flush=True)
                left -= 1
                if left == 0:
                    return

    _with(follow, path, socket, run, config)


@verbs.command("perms")
def perms(
    path: Node,
    entries: Annotated[
        list[str] | None, typer.Argument(help="To be set: owner's first, as n0 r7; c1 restricts.")
    ] = None,
    socket: Socket = None,
    run: Run = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print a node's permissions, or set them."""

    async def show(client: store.Client) -> None:
        if entries:
            await client.set_perms(os.fsencode(path), *(os.fsencode(entry) for entry in entries))
            return
        found = [entry.decode() for entry in await _perms(client, os.fsencode(path))]
        print(json.dumps({"path": path, "perms": found}) if as_json else " ".join(found))

    _with(show, path, socket, run, config)


def printable(value: bytes) -> str:
    """Render any bytes in ASCII, so that `parse_value` gives them back."""
    return "".join(map(_printable, value))


def _printable(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"


def parse_value(text: str) -> bytes:
    r"""Read what `printable` writes: `\\`, `\n` and `\xNN` stand for bytes; other text is UTF-8."""

    def byte(match: re.Match[str]) -> str:
        code = {"\\": 0x5C, "n": 0x0A}.get(match[1])
        return chr(int(match[1][1:], 16) if code is None else code)

    parts = re.split(r"(\\(?:\\|n|x[0-9a-fA-F]{2}))", text)
    return b"".join(
        re.sub(r"\\(\\|n|x..)", byte, part).encode("latin-1") if i % 2 else os.fsencode(part)
        for i, part in enumerate(parts)
    )


async def _tree(client: store.Client, path: bytes, *, perms: bool) -> AsyncIterator[Row]:
    """Yield a node and what is below it; what vanishes meanwhile is left out."""
    waiting = [path]
    first = True
    while waiting:
        path = waiting.pop()
        try:
            value = await client.read(path)
            rights = [entry.decode() for entry in await _perms(client, path)] if perms else []
            children = await client.directory(path)
        except StoreError as error:
            if first or error.name != "ENOENT":
                raise
            continue
        first = False
        yield Row(path.decode(), value, rights)
        prefix = path if path != b"/" else b""
        waiting += [b"%b/%b" % (prefix, name) for name in reversed(children)]


async def _perms(client: store.Client, path: bytes) -> list[bytes]:
    """Return permissions with our extension, if the store has it."""
    try:
        return await client.perms(path, extended=True)
    except StoreError as error:
        if error.name != "EINVAL":
            raise
        return await client.perms(path)


def _with(
    work: Callable[[store.Client], Awaitable[None]],
    path: str,
    socket: Path | None,
    run: Path | None,
    config: Path | None,
) -> None:
    """Do `work` with a client, and say in words what the store refuses."""

    async def main() -> None:
        async with store.connect(_socket(socket, run, config)) as client:
            await work(client)

    try:
        asyncio.run(main())
    except StoreError as error:
        what = _MEANS.get(error.name, "the store refuses")
        raise JitsuError(f"{path}: {what} ({error.name})") from None
    except BrokenPipeError:
        raise ControlError("nobody reads what is printed") from None


def _socket(socket: Path | None, run: Path | None, config: Path | None) -> Path:
    if socket is not None:
        return socket
    if run is None and config is None and (named := os.environ.get("XENSTORED_PATH")):
        return Path(named)
    return (folder_of(run, config) or DEFAULT_RUN) / "xenstored.sock"
