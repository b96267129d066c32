"""What runs on the guest's side, where the guest is Linux: it takes live connections over.

`python -m jitsu.guest --listen 80 -- server argument ...` listens, imports the connections that
Synjitsu has opened (docs/handoff.md) and becomes the server, which finds its sockets as systemd's
services do (sd_listen_fds(3)): $LISTEN_FDS of them from descriptor 3 on, named by $LISTEN_FDNAMES.
Those named `listen` accept connections; those named `connection` are connections.
"""
