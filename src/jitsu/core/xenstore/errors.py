"""The store's refusals, by the names that clients know."""

from jitsu.errors import ProtocolError
from jitsu.wire.xenstore import ERRORS


class StoreError(ProtocolError):
    """A request is refused; `name` goes back to the client."""

    def __init__(self, name: str) -> None:
        assert name in ERRORS, name
        super().__init__(name)
        self.name = name
        self.reply = name.encode() + b"\0"
