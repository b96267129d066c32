"""How a running daemon is spoken to."""
