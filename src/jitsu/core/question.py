"""One DNS query as the directory sees it, and the reply in the form that the query allows.

A query is hostile until it is parsed: dnspython does that, behind two limits that keep it cheap. A
question and nothing else, which is what most summonses come from, is read here, as dnspython reads
it. Of the EDNS record only what the reply depends on is kept: version, payload size and DO; all
options are ignored (RFC 6891 section 6.1.2). A signed query (TSIG) counts as malformed: we share
no keys with anybody.

A reply is put together from records that were rendered when the zones were built, since it is on
the path of every summons and of every flood: a tenth of what dnspython takes to do it each time.
Names are compressed only where that needs no search, by a pointer to the question's name or to a
suffix of it.
"""

import struct
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
from dns.edns import EDECode, OptionType
from dns.rcode import Rcode

from jitsu.errors import WireError

HEADER_BYTES = 12
PAYLOAD = 1232
"""Bytes of a UDP message that pass any link unfragmented: what we accept, and the most we send."""
QUERY_BYTES_MAX = PAYLOAD
"""A longer query is nonsense on any transport: one question and an EDNS record fit four times."""
QUERY_RECORDS_MAX = 4
"""Records beside the question, so that parsing is cheap: EDNS, TSIG, SIG(0) and an IXFR's SOA."""
UDP_BYTES = 512
"""What a client without EDNS takes over UDP (RFC 1035 section 4.2.1)."""
TCP_BYTES = 65535

_QR, _OPCODE, _AA, _TC, _RD, _RA = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080
_POINTER = 0xC000
_LABEL_BYTES_MAX = 63
_NAME_BYTES_MAX = 255


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks, and what its reply depends on.

    `edns` is the version asked for, or None. `repeats` is false if the same bytes are not
    likely to come again: 0x20 games with the case of the name, or options such as cookies.
    """

    ident: int
    name: dns.name.Name
    rdclass: dns.rdataclass.RdataClass
    rdtype: dns.rdatatype.RdataType
    recurse: bool
    edns: int | None
    payload: int
    dnssec_ok: bool
    repeats: bool

    def bytes_max(self, transport: str) -> int:
        """Return how long a reply may be."""
        if transport == "tcp":
            return TCP_BYTES
        return UDP_BYTES if self.edns is None else max(UDP_BYTES, min(self.payload, PAYLOAD))


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, in rendered records.

    `extended` says more to a client that speaks EDNS (RFC 8914).
    """

    rcode: Rcode = Rcode.NOERROR
    authoritative: bool = False
    answer: tuple[bytes, ...] = ()
    authority: tuple[bytes, ...] = ()
    additional: tuple[bytes, ...] = ()
    extended: EDECode | None = None


def record(rdtype: dns.rdatatype.RdataType, ttl: int, rdata: bytes) -> bytes:
    """Render a record without its owner, which `pointer` or `uncompressed` puts before it."""
    return struct.pack("!HHIH", rdtype, dns.rdataclass.IN, ttl, len(rdata)) + rdata


def uncompressed(name: dns.name.Name) -> bytes:
    """Render a name, its case kept."""
    return b"".join(bytes((len(label),)) + label for label in name.labels)


def pointer(question: Question, origin: dns.name.Name | None = None) -> bytes:
    """Point to the name that was asked for, or to that end of it which is `origin`."""
    labels = 0 if origin is None else len(question.name.labels) - len(origin.labels)
    cut = sum(len(label) + 1 for label in question.name.labels[:labels])
    return struct.pack("!H", _POINTER | HEADER_BYTES + cut)


def decode(data: bytes) -> Question:
    """Parse a query whose header is whole. Raises WireError if it is not one that makes sense."""
    questions, *records = struct.unpack_from("!HHHH", data, 4)
    if questions != 1 or sum(records) > QUERY_RECORDS_MAX or len(data) > QUERY_BYTES_MAX:
        raise WireError("not one question within the limits")
    plain = None if any(records) else _decode_plain(data)
    if plain is not None:
        return plain
    try:
        message = dns.message.from_wire(data)
    except dns.exception.DNSException as error:
        raise WireError(f"not a DNS query: {error}") from error
    asked = message.question[0]
    return Question(
        ident=message.id,
        name=asked.name,
        rdclass=asked.rdclass,
        rdtype=asked.rdtype,
        recurse=bool(message.flags & dns.flags.RD),
        edns=message.edns if message.edns >= 0 else None,
        payload=message.payload,
        dnssec_ok=bool(message.ednsflags & dns.flags.DO),
        repeats=not message.options and all(label == label.lower() for label in asked.name.labels),
    )


def _decode_plain(data: bytes) -> Question | None:
    """Parse a query that is a question and nothing else; None: it is for dnspython to judge.

    What summons is mostly such a query, and mostly the first for a while: none of dnspython's code
    is in the processor's caches then, and it takes ten times what it takes in a loop.
    """
    labels = []
    at = HEADER_BYTES
    while 0 < (size := data[at] if at < len(data) else 0) <= _LABEL_BYTES_MAX:
        labels.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    # The root's label, type and class end it; a pointer (RFC 1035 section 4.1.4) has no place here.
    if len(data) != at + 5 or data[at] or at - HEADER_BYTES >= _NAME_BYTES_MAX:
        return None
    ident, flags = struct.unpack_from("!HH", data)
    rdtype, rdclass = struct.unpack_from("!HH", data, at + 1)
    return Question(
        ident=ident,
        name=dns.name.Name((*labels, b"")),
        rdclass=dns.rdataclass.RdataClass.make(rdclass),
        rdtype=dns.rdatatype.RdataType.make(rdtype),
        recurse=bool(flags & _RD),
        edns=None,
        payload=0,
        dnssec_ok=False,
        repeats=all(label == label.lower() for label in labels),
    )


def encode(question: Question, reply: Reply, *, bytes_max: int, recursion: bool) -> bytes:
    """Render a reply. The name is repeated exactly as it was asked.

    What does not fit in `bytes_max` goes: first the additional records, then all of them, which
    TC tells.
    """
    flags = reply.rcode & 15 | (_AA if reply.authoritative else 0) | (_RA if recursion else 0)
    data = _message(question, flags, reply, (reply.answer, reply.authority, reply.additional))
    if len(data) > bytes_max:
        data = _message(question, flags, reply, (reply.answer, reply.authority, ()))
    if len(data) > bytes_max:
        data = _message(question, flags | _TC, reply, ((), (), ()))
    return data


def truncated(question: Question) -> bytes:
    """Render "too long, ask again over TCP", for what a recursive upstream found."""
    return _message(question, _RA | _TC, Reply(), ((), (), ()))


def _message(
    question: Question, flags: int, reply: Reply, sections: tuple[tuple[bytes, ...], ...]
) -> bytes:
    """Put a response together."""
    flags |= _QR | (_RD if question.recurse else 0)
    opt = () if question.edns is None else (_opt(question, reply),)
    answer, authority, additional = map(len, sections)
    header = struct.pack(
        "!HHHHHH", question.ident, flags, 1, answer, authority, additional + len(opt)
    )
    asked = uncompressed(question.name) + struct.pack("!HH", question.rdtype, question.rdclass)
    return b"".join((header, asked, *sections[0], *sections[1], *sections[2], *opt))


def _opt(question: Question, reply: Reply) -> bytes:
    """Render the EDNS record; DO is copied, whether or not we sign (RFC 3225 section 3)."""
    more = b"" if reply.extended is None else struct.pack("!HHH", OptionType.EDE, 2, reply.extended)
    flags = dns.flags.DO if question.dnssec_ok else 0
    rcode = reply.rcode >> 4
    return struct.pack("!BHHBBHH", 0, dns.rdatatype.OPT, PAYLOAD, rcode, 0, flags, len(more)) + more


def encode_header(data: bytes, rcode: Rcode) -> bytes:
    """Answer a query that cannot be understood: its header comes back, nothing else does."""
    ident, flags = struct.unpack_from("!HH", data)
    return struct.pack("!HHHHHH", ident, _QR | flags & (_OPCODE | _RD) | rcode, 0, 0, 0, 0)


def answers(question: Question, data: bytes) -> bool:
    """Say whether an upstream's `data` is a response to `question`, as far as its name goes."""
    try:
        message = dns.message.from_wire(data, question_only=True)
    except dns.exception.DNSException:
        return False
    asked = [(rrset.name, rrset.rdclass, rrset.rdtype) for rrset in message.question]
    return (
        message.id == question.ident
        and bool(message.flags & dns.flags.QR)
        and asked == [(question.name, question.rdclass, question.rdtype)]
    )
