#!/usr/bin/python3
"""A small web server in asyncio that can be summoned as a process, with nothing but Python.

What makes it one is `sockets`: it takes what it is given instead of listening by itself, as
services of systemd do (sd_listen_fds(3)). Among it are connections that clients have opened before
it ran: they have been answered by Jitsu, and go on here.
"""

import asyncio
import hashlib
import os
import socket


def sockets() -> list[tuple[str, socket.socket]]:
    """Return what we were given: pairs of a name, `listen` or `connection`, and a socket."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ["LISTEN_FDNAMES"].split(":")
    return [(name, socket.socket(fileno=3 + i)) for i, name in enumerate(names) if name]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one client."""
    try:
        while line := await reader.readline():
            length = 0
            while (header := await reader.readline()).strip():
                key, _, value = header.partition(b":")
                if key.lower() == b"content-length":
                    length = int(value)
            received = await reader.readexactly(length)
            method, path, _ = line.split()
            digest = hashlib.sha256(received).hexdigest()
            body = f"{method.decode()} {path.decode()}: {len(received)} bytes, {digest}\n".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass  # it has gone, or makes no sense
    finally:
        writer.close()


async def main() -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    servers = []
    for name, sock in sockets():
        sock.setblocking(False)
        if name == "listen":
            servers.append(await asyncio.start_server(serve, sock=sock))
        else:
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader, serve)
            await loop.connect_accepted_socket(lambda p=protocol: p, sock)
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
