"""When to boot a unikernel, and when to let it go.

One `Summoner` follows one service through its life:

                      +--------------------- Gone, and a wish was kept ----------------------+
                      v                                                                      |
    ASLEEP --Wanted--> BOOTING --Ready--> AWAKE --idle--> STOPPING (fenced) --still idle--> STOPPING
      ^                  |                  ^                 |                              |
      |                  | Gone, timeout    +-- Wanted, used -+            Gone              |
      +---- back-off --- FAILED             |                                                |
      |                                     +---Wanted: Resumed--- PAUSED or SUSPENDED <-----+
      +--------------------------------------------------------------------------------------+

Theory of operation.

*Two boots of one service never overlap.* Every boot has an epoch; events of an older epoch are
ignored, and a boot is asked for only when the one before is `Gone`. A boot that is given up
(time-out, an operator's stop) is killed first and counts as running until `Gone` arrives.

*Idle is judged by traffic, behind a fence.* When no traffic has been seen for `idle_after`, the
service is first fenced: new frames go to Synjitsu, who holds them. Then the traffic is looked at
once more. If a frame slipped through before the fence, or somebody wants the service meanwhile,
the fence is lifted and nobody has noticed anything. Otherwise the guest is stopped. So no
connection that the guest has seen is ever cut by idleness, however close the race.

*A wish that arrives while the guest is stopping is kept*, and boots it again once it is gone, or
has it run on once it is paused or suspended.

*A guest that is paused or suspended is still the same guest*: its connections are its own. It stays
in that state until it runs again, so that Synjitsu opens nothing in its place. A paused one holds
its memory, and its epoch; a suspended one is a file, asks for memory again, and has a new epoch. A
guest that cannot run on is booted anew, for the wish that it was to be woken by.

*A guest that dies while it boots is booted again, once, at once*: its clients wait, and most that
kills a guest so early (a host short of memory, an operator's slip) is over the next moment.

*Failure backs off.* Each failure in a row doubles the time during which wishes are refused. A
guest that has served for `STABLE_AFTER` clears the record.

This core does no I/O: give it events and the time, then perform the effects that it returns.
"""

from dataclasses import dataclass
from typing import assert_never

from jitsu.core.admission import Admission, Gatekeeper
from jitsu.model import Cause, Epoch, Name, ReadyOnDelay, Service, State, StopMode

BACKOFF_FIRST = 0.5
"""Seconds after a first failure: long enough that a broken image does not spin the host."""
BACKOFF_MAX = 60.0
"""A service that somebody mends must not stay refused for longer than a coffee."""
REFUSED_RETRY = 1.0
"""Seconds after a refusal for want of memory."""
STABLE_AFTER = 10.0
"""Seconds awake after which earlier failures are forgiven."""
SHUTDOWN_GRACE = 10.0
"""Seconds that a guest gets to shut itself down, or to be paused, before it is destroyed."""
SUSPEND_GRACE = 60.0
"""Seconds that it gets to be written to its file: some GiB at the pace of a slow disk."""
_KEPT = (StopMode.PAUSE, StopMode.SUSPEND)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asked for the service."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Admitted:
    """A boot that had to wait may begin."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The guest of `epoch` serves."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Gone:
    """The guest of `epoch` is no more, or never came to be; `clean` if it exited with success.

    `began` says whether it ever ran, `saved` whether it is in its file.
    """

    epoch: Epoch
    reason: str
    clean: bool = False
    began: bool = True
    saved: bool = False


@dataclass(frozen=True, slots=True)
class Paused:
    """The guest of `epoch` runs no more, but is there."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Resumed:
    """The guest of `epoch`, which was paused or suspended, runs on."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the data plane knows: when a packet last passed, and how many connections are open."""

    last: float
    flows: int


@dataclass(frozen=True, slots=True)
class Dismissed:
    """The operator wants the guest stopped, used or not; `for_good`: and nothing kept of it.

    One that is paused or suspended already is always ended for good.
    """

    for_good: bool = False


Event = Wanted | Admitted | Ready | Gone | Paused | Resumed | Traffic | Dismissed


@dataclass(frozen=True, slots=True)
class Boot:
    """Have the backend start a guest; it owns its address from `Ready` on."""

    service: Service
    epoch: Epoch
    cause: Cause


@dataclass(frozen=True, slots=True)
class Resume:
    """Have the paused guest run on: `Resumed` follows, or `Gone`."""

    service: Service
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Restore:
    """Have the backend start the guest that is in the file: `Resumed` follows, or `Gone`.

    The file is not needed any more then.
    """

    service: Service
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove the file of the suspended guest."""

    service: Service


@dataclass(frozen=True, slots=True)
class Look:
    """Report the service's `Traffic`."""

    service: Service


@dataclass(frozen=True, slots=True)
class Fence:
    """Let Synjitsu own the address, then report the service's `Traffic`."""

    service: Service


@dataclass(frozen=True, slots=True)
class HandOver:
    """Let the guest own its address, and give it what Synjitsu has held."""

    service: Service


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the backend end the guest in the service's own way; `Gone` says when it is done.

    Or `Paused`, where that is the way.
    """

    service: Service
    epoch: Epoch
    how: StopMode


@dataclass(frozen=True, slots=True)
class Admit:
    """Tell the service `name` that its turn to boot has come."""

    name: Name


@dataclass(frozen=True, slots=True)
class Entered:
    """The service is in another state now; `reason` is empty or a sentence for the operator."""

    service: Service
    state: State
    reason: str = ""


Effect = Boot | Resume | Restore | Discard | Look | Fence | HandOver | Stop | Admit | Entered


class Summoner:
    """The life of one service's guest."""

    def __init__(self, service: Service, gatekeeper: Gatekeeper) -> None:
        self.service = service
        self.state = State.ASLEEP
        self.epoch = Epoch(0)
        self.since = 0.0
        self.summons = 0
        self.reason = ""
        """Why it last failed or ended of itself; forgotten when it serves again."""
        self.cause = Cause.OPERATOR
        self._gatekeeper = gatekeeper
        self._running = False  # a guest exists, or a boot of one is under way
        self._queued = False
        self._kept: Cause | None = None  # a wish that came while stopping, or has it resumed
        self._saved = False  # it is in its file
        self._how = StopMode.DESTROY  # it was last asked to stop
        self._fenced = False
        self._used_at = 0.0
        self._failures = 0
        self._tried = False  # to boot, in vain, for the wish of now
        self._deadline: float | None = None

    def __repr__(self) -> str:
        """Return the state as an operator would tell it."""
        reason = f", {self.reason}" if self.reason else ""
        return f"<Summoner {self.service.name} {self.state} epoch {self.epoch}{reason}>"

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadline

    def heeds(self, cause: Cause) -> bool:
        """Say whether a wish would have the service boot, or run on, now."""
        match self.state:
            case State.FAILED:
                return cause is Cause.OPERATOR and not self._running
            case State.PAUSED | State.SUSPENDED:
                return self._kept is None
            case state:
                return state is State.ASLEEP

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what `event` makes necessary."""
        match event:
            case Wanted(cause):
                return self._wanted(cause, now)
            case Admitted():
                return self._begin(now) if self._queued else []
            case Ready(epoch):
                return self._ready(now) if epoch == self.epoch else []
            case Gone(epoch):
                return self._gone(event, now) if epoch == self.epoch and self._running else []
            case Paused(epoch):
                return self._paused(now) if epoch == self.epoch else []
            case Resumed(epoch):
                return self._resumed(now) if epoch == self.epoch else []
            case Traffic():
                return self._judge(event, now)
            case Dismissed(for_good):
                return self._dismissed(now, for_good=for_good)
            case _:
                assert_never(event)

    def tick(self, now: float) -> list[Effect]:
        """Return what the passing of time makes necessary."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        match self.state:
            case State.BOOTING if isinstance(self.service.ready, ReadyOnDelay):
                return self._ready(now)
            case State.BOOTING:
                reason = f"not ready within {self.service.boot_timeout:g} s"
                return [self._kill(), *self._fail(reason, now)]
            case State.AWAKE:
                return [Look(self.service)]
            case State.STOPPING:
                return [self._kill()]
            case State.PAUSED | State.SUSPENDED:
                # What it was woken for is kept, and boots it when it is gone.
                return [self._enter(State.STOPPING, now, "did not run on"), self._kill()]
            case State.FAILED if not self._running:
                return [self._enter(self._rest(), now)]
            case _:
                return []

    # What each event means in each state.

    def _wanted(self, cause: Cause, now: float) -> list[Effect]:
        match self.state:
            case State.PAUSED if self.heeds(cause):
                return self._resume(cause, now)
            case _ if self.heeds(cause):
                return self._ask(cause, now)
            case State.STOPPING if self._fenced:
                return self._unfence(now)
            case State.STOPPING:
                self._kept = cause
                return []
            case _:
                return []

    def _ask(self, cause: Cause, now: float, reason: str = "") -> list[Effect]:
        admission = self._gatekeeper.ask(self.service, anew=not self._saved)
        if admission is Admission.REFUSED:
            self._deadline = now + REFUSED_RETRY
            free = self._gatekeeper.memory_free >> 20
            return [self._enter(State.FAILED, now, f"no memory: {free} MiB of [host] memory free")]
        self.epoch = Epoch(self.epoch + 1)
        self._deadline = None  # the queue is patient; a back-off, if there was one, is over
        self.cause = cause
        self._running = True
        self._queued = True
        entered: list[Effect] = []
        if not self._saved:
            entered = [self._enter(State.BOOTING, now, reason)]
        else:
            self._kept = cause
            if self.state is not State.SUSPENDED:
                entered = [self._enter(State.SUSPENDED, now)]
        return entered if admission is Admission.QUEUED else [*entered, *self._begin(now)]

    def _begin(self, now: float) -> list[Effect]:
        self._queued = False
        self.summons += 1
        if self._saved:
            self._saved = False
            self._deadline = now + self.service.boot_timeout
            return [Restore(self.service, self.epoch)]
        ready = self.service.ready
        wait = ready.seconds if isinstance(ready, ReadyOnDelay) else self.service.boot_timeout
        self._deadline = now + wait
        return [Boot(self.service, self.epoch, self.cause)]

    def _ready(self, now: float) -> list[Effect]:
        if self.state is not State.BOOTING or self._queued:
            return []
        self._tried = False
        return self._serve(now)

    def _serve(self, now: float) -> list[Effect]:
        """The guest runs, and can serve."""
        self._used_at = now
        self._deadline = now + self.service.idle_after
        admitted = self._gatekeeper.booted(self.service.name)
        return [self._enter(State.AWAKE, now), HandOver(self.service), *map(Admit, admitted)]

    def _paused(self, now: float) -> list[Effect]:
        if self.state is not State.STOPPING or self._how is not StopMode.PAUSE:
            return []
        self._deadline = None
        kept, self._kept = self._kept, None
        entered = self._enter(State.PAUSED, now)
        return [entered, *(self._resume(kept, now) if kept else [])]

    def _resume(self, cause: Cause, now: float) -> list[Effect]:
        self._kept = self.cause = cause
        self.summons += 1
        self._deadline = now + self.service.boot_timeout
        return [Resume(self.service, self.epoch)]

    def _resumed(self, now: float) -> list[Effect]:
        is_asked = self._kept is not None and not self._queued
        if self.state not in (State.PAUSED, State.SUSPENDED) or not is_asked:
            return []
        self._kept = None
        return self._serve(now)

    def _rest(self) -> State:
        """Return the state of one that nobody wants."""
        return State.SUSPENDED if self._saved else State.ASLEEP

    def _gone(self, gone: Gone, now: float) -> list[Effect]:
        self._running = False
        self._fenced = False
        admitted = [Admit(name) for name in self._gatekeeper.gone(self.service.name)]
        forgotten: list[Effect] = []
        if gone.saved and self._how is StopMode.SUSPEND:
            self._saved = True
        elif gone.saved:  # but was to end for good meanwhile
            forgotten = [Discard(self.service)]
        match self.state:
            case State.BOOTING if gone.began and not self._tried:
                self._tried = True
                return [*admitted, *self._ask(self.cause, now, f"booted again: {gone.reason}")]
            case State.BOOTING:
                return [*self._fail(gone.reason, now), *admitted]
            case State.AWAKE if not gone.clean and now - self.since < STABLE_AFTER:
                return [*self._fail(gone.reason, now), *admitted]
            case State.FAILED:
                over = self._deadline is None
                return [*([self._enter(State.ASLEEP, now)] if over else []), *admitted]
            case _:
                return [*forgotten, *self._sleep(gone, now), *admitted]

    def _sleep(self, gone: Gone, now: float) -> list[Effect]:
        kept, self._kept = self._kept, None
        self._deadline = None
        self._failures = 0
        reason = "" if self.state is State.STOPPING else gone.reason
        entered = self._enter(self._rest(), now, reason)
        return [entered, *(self._ask(kept, now) if kept else [])]

    def _judge(self, traffic: Traffic, now: float) -> list[Effect]:
        """Decide by `traffic`: let it run on, fence it, or, when it is fenced, stop it."""
        if not (self.state is State.AWAKE or self._fenced):
            return []
        self._used_at = max(self._used_at, traffic.last)
        idle = now >= self._used_at + self.service.idle_after
        if traffic.flows == 0 and idle:
            if self._fenced:
                self._fenced = False
                return [self._stop(self.service.stop, now)]
            self._fenced = True
            self._deadline = None  # what happens next hangs on the second look
            return [self._enter(State.STOPPING, now), Fence(self.service)]
        if self._fenced:
            return self._unfence(now)
        # An open but silent connection shows no packet to wait for: look again later.
        next_look = now if idle else self._used_at
        self._deadline = next_look + self.service.idle_after
        return []

    def _unfence(self, now: float) -> list[Effect]:
        self._fenced = False
        self._used_at = now
        self._deadline = now + self.service.idle_after
        return [self._enter(State.AWAKE, now), HandOver(self.service)]

    def _dismissed(self, now: float, *, for_good: bool) -> list[Effect]:
        self._kept = None
        if self._queued:
            self._queued = self._running = False
            admitted = self._gatekeeper.gone(self.service.name)
            forgotten = self._forget()
            return [*forgotten, self._enter(State.ASLEEP, now), *map(Admit, admitted)]
        if self.state is State.AWAKE or self._fenced:
            self._fenced = False
            entered = [] if self.state is State.STOPPING else [self._enter(State.STOPPING, now)]
            how = self.service.stop
            how = StopMode.DESTROY if for_good and how in _KEPT else how
            return [*entered, self._stop(how, now)]
        if self.state in (State.BOOTING, State.PAUSED, State.SUSPENDED) and self._running:
            return [self._enter(State.STOPPING, now), self._kill()]
        if self.state is State.SUSPENDED:
            return [*self._forget(), self._enter(State.ASLEEP, now)]
        if self.state is State.STOPPING and for_good and self._how in _KEPT:
            return [self._kill()]
        return self._forget()

    def _forget(self) -> list[Effect]:
        was, self._saved = self._saved, False
        return [Discard(self.service)] if was else []

    def _stop(self, how: StopMode, now: float) -> Stop:
        self._deadline = now + (SUSPEND_GRACE if how is StopMode.SUSPEND else SHUTDOWN_GRACE)
        self._how = how
        return Stop(self.service, self.epoch, how)

    def _kill(self) -> Stop:
        self._deadline = None
        self._how = StopMode.DESTROY
        return Stop(self.service, self.epoch, StopMode.DESTROY)

    def _fail(self, reason: str, now: float) -> list[Effect]:
        self._deadline = now + min(BACKOFF_FIRST * 2**self._failures, BACKOFF_MAX)
        self._failures += 1
        self._tried = False
        return [self._enter(State.FAILED, now, reason)]

    def _enter(self, state: State, now: float, reason: str = "") -> Entered:
        self.state = state
        self.since = now
        if reason or state is State.AWAKE:
            self.reason = reason
        return Entered(self.service, state, reason)
