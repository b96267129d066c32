"""What can go wrong with the lab."""


class LabError(Exception):
    """The lab cannot be built or run; the message says why, and what to do."""
