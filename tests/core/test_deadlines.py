from hypothesis import given
from hypothesis import strategies as st

from jitsu.core.deadlines import Deadlines


def test_the_earliest_is_next() -> None:
    deadlines = Deadlines()
    assert deadlines.next() is None
    deadlines.set("a", 3.0)
    deadlines.set("b", 2.0)
    assert deadlines.next() == 2.0
    deadlines.set("b", None)
    assert deadlines.next() == 3.0
    assert deadlines.due(2.9) == []
    assert deadlines.due(3.0) == ["a"]
    assert deadlines.due(9.0) == []


def test_a_deadline_that_moves_counts_once() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.set("a", 5.0)
    deadlines.set("a", 1.0)
    deadlines.set("a", 1.0)
    assert deadlines.due(9.0) == ["a"]


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 9))))
def test_it_agrees_with_a_dictionary(moves: list[tuple[int, int | None]]) -> None:
    deadlines, model = Deadlines(), dict[int, int]()
    for key, at in moves:
        deadlines.set(key, at)
        model.pop(key, None)
        if at is not None:
            model[key] = at
        assert deadlines.next() == min(model.values(), default=None)
    assert sorted(map(str, deadlines.due(9))) == sorted(map(str, model))
