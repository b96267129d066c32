"""Listen, take over the connections that are open already, and become a server."""

import os
import sys

from jitsu.guest import LAUNCHER

if __name__ == "__main__":
    try:
        os.execv(LAUNCHER, [LAUNCHER, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"jitsu: {LAUNCHER}: {error.strerror}")
