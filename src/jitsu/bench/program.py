"""A web server as small as they come, for `backend = "process"`; it imports nothing of Jitsu.

It takes its sockets as services of systemd do (sd_listen_fds(3)), or one that listens, as its
first descriptor, when nobody tells.
"""

import os
import socket
from contextlib import suppress

BODY = b"just in time\n" * 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(BODY), BODY)


def serve(client: socket.socket) -> None:
    """Answer one request."""
    with client:
        request = b""
        while b"\r\n\r\n" not in request:
            more = client.recv(65536)
            if not more:
                return
            request += more
        client.sendall(ANSWER)


def main() -> None:
    """Serve who is there, then who comes."""
    names = os.environ.get("LISTEN_FDNAMES", "listen").split(":")
    sockets = [(name, socket.socket(fileno=3 + i)) for i, name in enumerate(names)]
    for name, sock in sockets:
        if name == "connection":
            with suppress(OSError):
                serve(sock)
    listener = sockets[0][1]
    while True:
        with suppress(OSError):
            serve(listener.accept()[0])


if __name__ == "__main__":
    main()
