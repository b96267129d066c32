"""Everything that Jitsu raises on purpose.

    JitsuError
    ├── ConfigError      the operator's file is wrong; says file, line, key and what to do
    ├── ProtocolError    a peer broke the rules of a protocol; drop and count, or answer an error
    │   └── WireError    bytes that are not what they should be
    ├── HostError        the world failed: kernel, hypervisor, file; carries its cause
    │   └── BootError    a guest could not be started
    └── ControlError     the daemon refused a verb, or none answers

A rule of our own that we broke is an `assert`, never one of these.
"""


class JitsuError(Exception):
    """Base of all errors that Jitsu raises on purpose."""


class ConfigError(JitsuError):
    """Mistakes in a configuration, each one line `file:line: key: what and what to do`."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class ProtocolError(JitsuError):
    """A peer broke the rules of a protocol."""


class WireError(ProtocolError):
    """Bytes that do not decode."""


class HostError(JitsuError):
    """The kernel, a hypervisor or a file did not do what was asked."""


class BootError(HostError):
    """A guest could not be started."""


class ControlError(JitsuError):
    """The daemon refused a verb, or no daemon answers."""
