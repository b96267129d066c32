"""What this host itself runs on."""

from pathlib import Path

_CAPABILITIES = Path("/proc/xen/capabilities")


def is_dom0(capabilities: Path = _CAPABILITIES) -> bool:
    """Say whether this host is the domain from which Xen is controlled (xenfs of Linux)."""
    try:
        return "control_d" in capabilities.read_text()
    except OSError:
        return False
