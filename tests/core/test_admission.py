from jitsu.core.admission import Admission, Gatekeeper
from jitsu.model import Service
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


def prepared(gate: Gatekeeper, *services: Service) -> None:
    for which in services:
        assert gate.reserve(which)
        gate.made(which)


def test_what_is_prepared_is_booted_in_its_own_memory() -> None:
    gate = Gatekeeper(MEMORY)
    prepared(gate, A)
    assert (gate.prepared(A), gate.memory_free) == (1, 0)
    assert not gate.reserve(B), "there is no room for another"
    assert gate.ask(A) is Admission.ADMITTED
    assert gate.prepared(A) == 0
    assert gate.taken(A) == []
    assert gate.memory_free == 0
    gate.gone(A.name)
    assert gate.memory_free == MEMORY


def test_one_is_prepared_at_a_time() -> None:
    gate = Gatekeeper(2 * MEMORY)
    assert gate.reserve(A)
    assert not gate.reserve(B)
    assert gate.failed(A) == []
    assert gate.reserve(B)
    assert gate.memory_free == MEMORY


def test_a_boot_waits_until_what_gives_way_has_gone() -> None:
    gate = Gatekeeper(2 * MEMORY)
    prepared(gate, A, B)
    assert gate.ask(C) is Admission.QUEUED
    assert gate.busy
    assert gate.evict() == [A], "the one that was prepared first"
    assert gate.evict() == [], "who is told once"
    assert gate.memory_free == 0
    assert not gate.reserve(A)
    assert gate.left(A) == [C.name]
    assert gate.prepared(B) == 1


def test_no_more_gives_way_than_is_needed() -> None:
    gate = Gatekeeper(3 * MEMORY)
    prepared(gate, A, A)
    assert gate.ask(C) is Admission.ADMITTED
    assert gate.evict() == []
    assert gate.ask(B) is Admission.QUEUED
    assert gate.evict() == [A]
    large = service(4, memory=2 * MEMORY)
    assert gate.ask(large) is Admission.REFUSED
    assert gate.evict() == [], "for one that does not fit, nothing goes"
    assert gate.prepared(A) == 1
    assert gate.ask(service(5)) is Admission.QUEUED
    assert gate.evict() == [A]
    assert gate.left(A) == [], "what both wait for is not there yet"
    assert gate.left(A) == [B.name, service(5).name]


def test_what_is_leaving_is_enough_for_who_asks_next() -> None:
    gate = Gatekeeper(2 * MEMORY)
    large = service(4, memory=2 * MEMORY)
    prepared(gate, large)
    assert gate.ask(B) is Admission.QUEUED
    assert gate.ask(C) is Admission.QUEUED
    assert gate.evict() == [large]
    assert gate.left(large) == [B.name, C.name]


def test_what_is_being_prepared_gives_way_as_well() -> None:
    gate = Gatekeeper(MEMORY)
    for end in (gate.failed, gate.left):
        assert gate.reserve(A)
        assert gate.ask(B) is Admission.QUEUED
        assert gate.evict() == [], "it cannot be told yet"
        if end == gate.left:
            gate.made(A)
            assert gate.evict() == [A], "but is told when it is there"
        assert end(A) == [B.name]
        gate.gone(B.name)


def test_a_boot_that_takes_what_was_ready_only_later_gives_its_own_memory_back() -> None:
    gate = Gatekeeper(2 * MEMORY, boots_max=1)
    assert gate.reserve(A)
    assert gate.ask(A) is Admission.ADMITTED
    assert gate.memory_free == 0
    gate.made(A)
    assert gate.taken(A) == []
    assert (gate.memory_free, gate.prepared(A)) == (MEMORY, 0)
    gate.gone(A.name)
    assert gate.memory_free == 2 * MEMORY


def test_what_was_promised_to_a_boot_that_never_came_is_there_for_the_next() -> None:
    gate = Gatekeeper(2 * MEMORY, boots_max=1)
    prepared(gate, A)
    gate.ask(B)
    assert gate.ask(A) is Admission.QUEUED
    assert gate.gone(A.name) == []
    assert gate.prepared(A) == 1
    gate.gone(B.name)
    assert gate.memory_free == MEMORY


def test_memory_of_what_has_died_is_the_boots_or_free() -> None:
    gate = Gatekeeper(2 * MEMORY)
    prepared(gate, A, A)
    assert gate.ask(A) is Admission.ADMITTED
    assert gate.lost(A) == []
    assert (gate.prepared(A), gate.memory_free) == (0, MEMORY)
    assert gate.lost(A) == [], "the boot goes without it, in the same memory"
    assert gate.memory_free == MEMORY
    gate.gone(A.name)
    assert gate.memory_free == 2 * MEMORY


def test_a_suspended_guest_has_no_use_for_what_is_prepared() -> None:
    gate = Gatekeeper(2 * MEMORY)
    prepared(gate, A)
    assert gate.ask(A, anew=False) is Admission.ADMITTED
    assert gate.prepared(A) == 1
    assert gate.memory_free == 0


def test_all_gives_way_at_the_end() -> None:
    gate = Gatekeeper(3 * MEMORY)
    prepared(gate, A, B)
    assert gate.reserve(C)
    gate.empty()
    assert gate.evict() == [A, B]
    gate.made(C)
    assert gate.evict() == [C]
    for which in (A, B, C):
        gate.left(which)
    assert gate.memory_free == 3 * MEMORY
