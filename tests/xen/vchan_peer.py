"""A peer that is Xen's own library: echoes in capitals what it reads, and says when it is alone.

vchan_peer.py server|client PATH
"""

import ctypes as c
import sys

vchan = c.CDLL("libxenvchan.so.4.17", use_errno=True)
vchan.libxenvchan_server_init.restype = c.c_void_p
vchan.libxenvchan_server_init.argtypes = (c.c_void_p, c.c_int, c.c_char_p, c.c_size_t, c.c_size_t)
vchan.libxenvchan_client_init.restype = c.c_void_p
vchan.libxenvchan_client_init.argtypes = (c.c_void_p, c.c_int, c.c_char_p)
for name in ("read", "write"):
    getattr(vchan, f"libxenvchan_{name}").argtypes = (c.c_void_p, c.c_char_p, c.c_size_t)
for name in ("wait", "is_open", "close"):
    getattr(vchan, f"libxenvchan_{name}").argtypes = (c.c_void_p,)


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(role: str, path: str) -> None:
    if role == "server":
        end = vchan.libxenvchan_server_init(None, 0, path.encode(), 4096, 4096)
    else:
        end = vchan.libxenvchan_client_init(None, 0, path.encode())
    assert end, f"errno {c.get_errno()}"
    say("ready")
    buffer = c.create_string_buffer(4096)
    # The server's client is not there yet: 2 stands for that.
    while vchan.libxenvchan_is_open(end):
        count = vchan.libxenvchan_read(end, buffer, len(buffer))
        if count < 0:
            break
        data = buffer.raw[:count].upper()
        while data:
            sent = vchan.libxenvchan_write(end, data, len(data))
            if sent < 0:
                break
            data = data[sent:]
    say("alone")
    vchan.libxenvchan_close(end)


if __name__ == "__main__":
    main(*sys.argv[1:])
