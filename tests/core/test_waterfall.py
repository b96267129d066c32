from jitsu.core.waterfall import Waterfall
from jitsu.model import Cause, Epoch, Name


def test_it_reports_microseconds_since_the_wish() -> None:
    fall = Waterfall(Name("www"), Epoch(3), Cause.DNS, started=100.0)
    assert fall.report()["total_us"] == 0
    fall.mark("exec", 100.001)
    fall.mark("exec", 100.5)  # the first time counts
    fall.mark("first frame", 100.021, span="boot", since="exec")
    fall.mark("first frame", 100.6, span="boot", since="exec")
    fall.mark("answered", 100.0005, span="answer")
    assert fall.report() == {
        "service": "www",
        "epoch": 3,
        "cause": "dns",
        "total_us": 21000,
        "failed": None,
        "stages": [
            {"name": "answer", "at_us": 0, "took_us": 500},
            {"name": "boot", "at_us": 1000, "took_us": 20000},
        ],
    }


def test_it_says_when_and_why_a_boot_failed() -> None:
    fall = Waterfall(Name("www"), Epoch(3), Cause.DNS, started=100.0)
    fall.failed = (104.0, "not ready within 4 s")
    failed = {"after_us": 4_000_000, "reason": "not ready within 4 s"}
    assert fall.report()["failed"] == failed
