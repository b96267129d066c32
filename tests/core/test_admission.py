from jitsu.core.admission import Admission, Gatekeeper
from jitsu.testing.world import service

MEMORY = 16 << 20
A, B, C = (service(i) for i in range(3))


def test_memory_is_claimed_and_given_back() -> None:
    gate = Gatekeeper(2 * MEMORY)
    assert gate.ask(A) is Admission.ADMITTED
    assert gate.ask(B) is Admission.ADMITTED
    assert gate.ask(C) is Admission.REFUSED
    assert repr(gate) == "<Gatekeeper 0MiB free, 2 admitted, 0 wait>"
    assert gate.gone(A.name) == []
    assert gate.ask(C) is Admission.ADMITTED
    assert gate.gone("nobody") == []  # type: ignore[arg-type]


def test_boots_are_admitted_in_the_order_of_asking() -> None:
    gate = Gatekeeper(3 * MEMORY, boots_max=1)
    assert [gate.ask(s) for s in (A, B, C)] == [
        Admission.ADMITTED,
        Admission.QUEUED,
        Admission.QUEUED,
    ]
    assert gate.booted(A.name) == [B.name]
    assert gate.gone(B.name) == [C.name]
    assert gate.memory_free == MEMORY


def test_who_leaves_the_queue_is_passed_over() -> None:
    gate = Gatekeeper(3 * MEMORY, boots_max=1)
    for who in (A, B, C):
        gate.ask(who)
    assert gate.gone(B.name) == []
    assert gate.booted(A.name) == [C.name]
