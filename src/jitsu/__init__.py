"""Jitsu summons unikernels just in time."""
