"""Lines of the store that are no connection."""

import pytest

from launcher.library import parse

GOOD = (
    "state=established local=10.77.0.10 port=80 peer=10.77.0.9 peer_port=40000 "
    "peer_mac=02:00:00:00:00:09 iss=7 snd_una=8 snd_nxt=8 snd_wnd=64240 irs=99 rcv_nxt=117 "
    "rcv_wnd=8174 mss=1460 snd_wscale=0 rcv_wscale=0 sack=0 ts=0 ts_val=0 ts_recent=0 rx=17"
)


def test_what_is_one() -> None:
    for line in (GOOD, f"{GOOD} later=whatever", GOOD.replace("10.77.0.", "fd77::")):
        assert parse(line.encode())[1] is None


@pytest.mark.parametrize(
    ("good", "bad", "wrong"),
    [
        ("state=established", "state=listen", "state"),
        ("state=established", "state", "state"),
        ("state=established ", "", "state"),
        ("local=10.77.0.10", "local=10.77.0", "local"),
        ("local=10.77.0.10", "local=fd77::1", "ends"),
        ("local=10.77.0.10 ", "", "ends"),
        ("peer=10.77.0.9", "peer=www", "peer"),
        ("peer_port=40000", "peer_port=0", "ends"),
        (" port=80", " port=65536", "port"),
        (" port=80", "", "port"),
        ("ts_val=0 ", "", "ts_val"),
        ("iss=7", "iss=-7", "iss"),
        ("iss=7", "iss=4294967296", "iss"),
        ("iss=7", "iss=", "iss"),
        ("iss=7", "iss=7x", "iss"),
        ("snd_wscale=0", "snd_wscale=15", "snd_wscale"),
        ("rx=17", "rx=99999999999999999999999", "rx"),
    ],
)
def test_what_is_none(good: str, bad: str, wrong: str) -> None:
    assert good in GOOD
    assert parse(GOOD.replace(good, bad).encode())[1] == wrong
