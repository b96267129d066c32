#!/usr/bin/python3
"""A server for tests: TLS on 443, WebSockets (RFC 6455) on 80, of which it echoes each message."""

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import sys
from functools import partial


async def secure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (await reader.readline()).strip():
        pass
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nsecurely")
    await writer.drain()
    writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    key = b""
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b": ")
        if name.lower() == b"sec-websocket-key":
            key = value
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(head + b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest))
    while True:
        first, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(length & 0x7F)
        message = bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked))
        writer.write(bytes([first, len(message)]) + message)
        await writer.drain()


def same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    loop = asyncio.get_running_loop()
    servers = []
    for i, name in enumerate(os.environ["LISTEN_FDNAMES"].split(":")):
        sock = socket.socket(fileno=3 + i)
        sock.setblocking(False)
        tls = sock.getsockname()[1] == 443
        serve, chosen = (secure, context) if tls else (echo, None)
        if name == "listen":
            servers.append(await asyncio.start_server(serve, sock=sock, ssl=chosen))
        else:
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader, serve)
            await loop.connect_accepted_socket(partial(same, protocol), sock, ssl=chosen)
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
