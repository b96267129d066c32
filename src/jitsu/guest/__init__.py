"""What a server in a Linux guest is at first: its launcher, and how that is told (`launcher/`).

`python -m jitsu.guest --listen 80 -- server argument ...` listens, imports the connections that
Synjitsu has opened (docs/handoff.md) and becomes the server, which finds its sockets as systemd's
services do (sd_listen_fds(3)): $LISTEN_FDS of them from descriptor 3 on, named by $LISTEN_FDNAMES.
Those named `listen` accept connections; those named `connection` are connections.
"""

from importlib.resources import files

LAUNCHER = str(files("jitsu") / "images" / "launcher")
"""An executable that needs nothing else where it runs: a guest without Python runs it itself."""
