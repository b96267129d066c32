"""`python -m jitsu`."""

from jitsu.cli import main

main()
