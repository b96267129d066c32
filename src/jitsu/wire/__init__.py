"""Bytes to values and back: pure functions and frozen dataclasses, no state."""
