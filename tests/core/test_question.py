"""Queries, as dnspython understands them."""

import dns.exception
import dns.flags
import dns.message
import dns.name
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jitsu.core.question import Question, decode
from jitsu.errors import WireError
from wire.strategies import damaged

labels = st.one_of(st.binary(min_size=1, max_size=63), st.sampled_from([b"www", b"WWW"]))
headers = st.binary(min_size=2, max_size=2).map(lambda ident: ident + b"\x01\0\0\1" + bytes(6))
names = st.lists(labels, max_size=6).map(
    lambda name: b"".join(bytes((len(label),)) + label for label in name) + b"\0"
)
queries = st.builds(lambda *parts: b"".join(parts), headers, names, st.binary(max_size=6))
WWW = b"\1\2\1\0\0\1" + bytes(6) + b"\3www\0\0\1\0\1"


def by_dnspython(data: bytes) -> Question | None:
    try:
        message = dns.message.from_wire(data)
    except dns.exception.DNSException:
        return None
    asked = message.question[0]
    return Question(
        ident=message.id,
        name=asked.name,
        rdclass=asked.rdclass,
        rdtype=asked.rdtype,
        recurse=bool(message.flags & dns.flags.RD),
        edns=None,
        payload=0,
        dnssec_ok=False,
        repeats=all(label == label.lower() for label in asked.name.labels),
    )


@given(
    st.one_of(
        queries,
        st.just(WWW),
        damaged(st.just(WWW).map(lambda data: data[12:])).map(WWW[:12].__add__),
    )
)
@example(WWW)
@example(WWW[:-1])
@example(WWW + b"\0")
@example(WWW[:12] + b"\xc0\x0c\0\1\0\1")
@example(WWW[:12] + b"\x3f" + b"a" * 63 + b"\0\0\1\0\1")
@example(WWW[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1")
def test_a_question_alone_is_read_as_dnspython_reads_it(data: bytes) -> None:
    expected = by_dnspython(data)
    if expected is None:
        with pytest.raises(WireError):
            decode(data)
    else:
        assert decode(data) == expected
