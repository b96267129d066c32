from jitsu.core.waterfall import Waterfall
from jitsu.model import Cause, Epoch, Name


def test_it_reports_microseconds_since_the_wish() -> None:
    fall = Waterfall(Name("www"), Epoch(3), Cause.DNS, started=100.0)
    assert fall.report()["total_us"] == 0
    fall.mark("exec", 100.001)
    fall.mark("exec", 100.5)  # the first time counts
    fall.span("boot", "exec", 100.021)
    fall.span("answer", "", 100.0005)
    assert fall.report() == {
        "service": "www",
        "epoch": 3,
        "cause": "dns",
        "total_us": 21000,
        "stages": [
            {"name": "answer", "at_us": 0, "took_us": 500},
            {"name": "boot", "at_us": 1000, "took_us": 20000},
        ],
    }
