"""Decisions: each core takes events and the time, and returns effects."""
