"""What hypothesis draws for all wire formats."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from jitsu.model import Mac

CLIENT, SERVER = IPv4Address("10.77.0.2"), IPv4Address("10.77.0.10")
CLIENT6, SERVER6 = IPv6Address("fd77::2"), IPv6Address("fd77::10")
CLIENT_MAC, SERVER_MAC = Mac(bytes.fromhex("020000000002")), Mac(bytes.fromhex("02000000000a"))

bytes8 = st.integers(0, 0xFF)
words16 = st.integers(0, 0xFFFF)
words32 = st.integers(0, 0xFFFF_FFFF)
macs = st.binary(min_size=6, max_size=6).map(Mac)
addresses = st.integers(0, 0xFFFF_FFFF).map(IPv4Address)
addresses6 = st.integers(0, 2**128 - 1).map(IPv6Address)
either_addresses = st.tuples(addresses, addresses) | st.tuples(addresses6, addresses6)
payloads = st.binary(max_size=80)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw something valid, overwrite some bytes, then cut it or add to it."""
    data = bytearray(draw(whole))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), bytes8), max_size=4)):
        data[at] = value
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))
