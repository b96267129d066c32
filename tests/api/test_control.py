"""The control socket, for real: its own clients, and some that do not behave."""

import asyncio
import json
import socket
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jitsu.api import control
from jitsu.api.control import REQUEST_BYTES_MAX, SOCKET, serve
from jitsu.errors import ControlError, HostError

PATIENCE = 10.0
NOT_A_REQUEST = f"a request is one JSON object of at most {REQUEST_BYTES_MAX} bytes"


async def handler(request: dict[str, Any]) -> Any:
    """Do the verbs of these tests."""
    match request["verb"]:
        case "echo":
            return request
        case "refuse":
            raise ControlError("www is not there; see `jitsu ls`")
        case "fail":
            raise HostError("the tap is gone")
        case "nothing":
            return None
        case "wait":
            await asyncio.get_running_loop().create_future()
        case _:
            pass
    return []


def play(run: Path, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Play `story` while the socket is served; nothing of it is left."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(PATIENCE):
            async with serve(run, handler):
                await story()
        assert not (run / SOCKET).exists()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert complaints == []

    asyncio.run(main())


async def ask(run: Path, verb: str, **arguments: object) -> Any:
    return await asyncio.to_thread(control.request, run, verb, **arguments)


async def say(run: Path, data: bytes) -> list[dict[str, Any]]:
    """Send bytes and no more, and return the replies."""
    reader, writer = await asyncio.open_unix_connection(run / SOCKET)
    writer.write(data)
    writer.write_eof()
    replies = [json.loads(line) async for line in reader]
    writer.close()
    return replies


def test_a_verb_and_its_reply(tmp_path: Path) -> None:
    async def story() -> None:
        echoed = await ask(tmp_path, "echo", name="www", more=[1, None, "caf\xe9"])
        assert echoed == {"verb": "echo", "name": "www", "more": [1, None, "caf\xe9"]}
        assert await ask(tmp_path, "nothing") is None
        assert await ask(tmp_path, "ls") == []

    play(tmp_path, story)


def test_what_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        for verb, said in (
            ("refuse", "www is not there; see `jitsu ls`"),
            ("fail", "the tap is gone"),
        ):
            with pytest.raises(ControlError) as caught:
                await ask(tmp_path, verb)
            assert str(caught.value) == said

    play(tmp_path, story)


def test_many_requests_on_one_connection(tmp_path: Path) -> None:
    async def story() -> None:
        data = b'{"verb": "nothing"}\n{"verb": "refuse"}\n{"verb": "ls"}\n'
        replies = await say(tmp_path, data)
        assert [list(reply) for reply in replies] == [["ok"], ["error"], ["ok"]]

    play(tmp_path, story)


@pytest.mark.parametrize(
    "line",
    [b"ls", b"", b"[]", b"3", b'"ls"', b"null", b"{", b"\xff\xfe", b"[" * 4000, b"9" * 4095],
    ids=lambda line: repr(line[:8]),
)
def test_what_is_no_request(tmp_path: Path, line: bytes) -> None:
    """It is answered, and so is what follows."""

    async def story() -> None:
        replies = await say(tmp_path, line + b'\n{"verb": "ls"}\n')
        assert replies == [{"error": NOT_A_REQUEST}, {"ok": []}]

    play(tmp_path, story)


def padded(length: int) -> bytes:
    """Return a request line of that many bytes."""
    line = b'{"verb": "nothing", "x": ""}\n'
    return line.replace(b'""', b'"' + b"x" * (length - len(line)) + b'"')


def test_the_longest_line(tmp_path: Path) -> None:
    async def story() -> None:
        assert await say(tmp_path, padded(REQUEST_BYTES_MAX)) == [{"ok": None}]

    play(tmp_path, story)


@pytest.mark.parametrize("length", [REQUEST_BYTES_MAX + 2, 2 * REQUEST_BYTES_MAX, 100_000])
def test_a_line_that_is_too_long(tmp_path: Path, length: int) -> None:
    """It is answered once and the conversation ends: its tail must not be taken for a request."""

    async def story() -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(b"x" * (length - 20) + b'{"verb": "nothing"}\n{"verb": "nothing"}\n')
        assert json.loads(await reader.readline()) == {"error": NOT_A_REQUEST}
        with suppress(ConnectionResetError):  # closed with bytes unread
            assert await reader.read() == b""
        writer.close()
        assert await ask(tmp_path, "ls") == []

    play(tmp_path, story)


def test_a_client_that_goes_away(tmp_path: Path) -> None:
    """Before it asks, in the middle of a request, and before the reply."""

    async def story() -> None:
        for data in (b"", b'{"verb": ', b'{"verb": "echo"}\n' * 1000, b'{"verb": "wait"}\n'):
            _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
            writer.write(data)
            await writer.drain()
            writer.transport.abort()
        assert await ask(tmp_path, "ls") == []

    play(tmp_path, story)


def test_a_client_that_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(padded(4000).replace(b"nothing", b"echo") * 500)
        assert await ask(tmp_path, "ls") == []
        writer.transport.abort()

    play(tmp_path, story)


def test_who_waits_is_let_go_when_the_daemon_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(tmp_path, handler):
            reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
            writer.write(b'{"verb": "ls"}\n{"verb": "wait"}\n')
            assert await reader.readline() == b'{"ok": []}\n'
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()

    asyncio.run(main())


def test_only_its_own_user_may_open_it(tmp_path: Path) -> None:
    async def story() -> None:
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO) == 0

    play(tmp_path, story)


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    (tmp_path / SOCKET).touch()

    async def story() -> None:
        assert await ask(tmp_path, "ls") == []

    play(tmp_path, story)


@pytest.mark.parametrize("where", ["nowhere", "x" * 200])
def test_a_folder_that_cannot_be_served(tmp_path: Path, where: str) -> None:
    async def main() -> None:
        with pytest.raises(HostError, match=r"control: .*; choose another \[host\] run"):
            async with serve(tmp_path / where, handler):
                pytest.fail("it is served")

    asyncio.run(main())


def test_something_else_is_in_the_sockets_place(tmp_path: Path) -> None:
    (tmp_path / SOCKET).mkdir()

    async def main() -> None:
        with pytest.raises(HostError, match=r"control: .*; choose another \[host\] run"):
            async with serve(tmp_path, handler):
                pytest.fail("it is served")

    asyncio.run(main())


@pytest.mark.parametrize("left", ["nothing", "a dead socket", "a file"])
def test_no_daemon(tmp_path: Path, left: str) -> None:
    path = tmp_path / SOCKET
    if left == "a file":
        path.touch()
    elif left == "a dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    with pytest.raises(ControlError) as caught:
        control.request(tmp_path, "ls")
    assert str(caught.value) == f"no daemon answers at {path}; start `jitsu serve`"


def test_a_daemon_that_dies_in_the_middle(tmp_path: Path) -> None:
    async def main() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _.readline()
            writer.close()

        async with await asyncio.start_unix_server(hang_up, tmp_path / SOCKET):
            with pytest.raises(ControlError) as caught:
                await ask(tmp_path, "ls")
        assert str(caught.value) == "the daemon has closed the connection; see its log"

    asyncio.run(main())
