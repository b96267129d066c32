"""The outside world, thin: one kind of thing a file, no decisions."""
