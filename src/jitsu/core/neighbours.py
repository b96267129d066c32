"""Who has an IPv6 address: the answer that stands in for one that sleeps."""

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv6, ndp


def answer(frame: bytes, mac: Mac) -> bytes | None:
    """Return the frame that tells who sent `frame` that what it asks for is at `mac`.

    None if it is no solicitation that may be believed. An asker that has no address itself makes
    sure that nobody has this one: all are told that somebody does.
    """
    try:
        outer = ethernet.decode(frame)
        packet = ipv6.decode(outer.payload)
        asked = ndp.decode(packet)
    except WireError:
        return None
    if not isinstance(asked, ndp.Solicitation):
        return None
    told = ndp.answer(asked, packet.source, mac)
    group = told.destination.is_multicast
    to = ipv6.multicast_mac(told.destination) if group else outer.source
    return ethernet.encode(ethernet.Frame(to, mac, ethernet.EtherType.IPV6, ipv6.encode(told)))
