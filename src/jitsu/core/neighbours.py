"""Who has an address: the answer that stands in for one that sleeps."""

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import arp, ethernet, ipv6, ndp


def answer(frame: bytes, mac: Mac) -> bytes | None:
    """Return the frame that tells who sent `frame` that what it asks for is at `mac`.

    That is an ARP request or a neighbour solicitation; None if it is none that may be believed. An
    asker that has no IPv6 address itself makes sure that nobody has this one: all are told that
    somebody does.
    """
    try:
        outer = ethernet.decode(frame)
        if outer.ethertype == ethernet.EtherType.ARP:
            told = arp.encode(arp.reply_to(arp.decode(outer.payload), mac))
            return ethernet.encode(ethernet.Frame(outer.source, mac, outer.ethertype, told))
        packet = ipv6.decode(outer.payload)
        asked = ndp.decode(packet)
    except WireError:
        return None
    if not isinstance(asked, ndp.Solicitation):
        return None
    advertised = ndp.answer(asked, packet.source, mac)
    group = advertised.destination.is_multicast
    to = ipv6.multicast_mac(advertised.destination) if group else outer.source
    return ethernet.encode(ethernet.Frame(to, mac, outer.ethertype, ipv6.encode(advertised)))
