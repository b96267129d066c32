"""What a summons spent its time on."""

from dataclasses import dataclass, field

from jitsu.model import Cause, Epoch, Name


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a summons: from `start` to `end`, seconds on the clock of its waterfall."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class Waterfall:
    """One summons, from the wish on; times are in seconds, stages in the order of their end."""

    service: Name
    epoch: Epoch
    cause: Cause
    started: float
    stages: list[Stage] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    """When each thing that may open a stage happened."""
    failed: tuple[float, str] | None = None
    """When it failed and why, if it did."""

    def mark(self, name: str, now: float, *, span: str = "", since: str = "") -> None:
        """Note that `name` happened now; the first time counts.

        It closes the stage `span`, open since the mark `since`, or since the wish.
        """
        if name in self.marks:
            return
        self.marks[name] = now
        if span:
            self.stages.append(Stage(span, self.marks.get(since, self.started), now))

    def report(self) -> dict[str, object]:
        """Return the public form: times in whole microseconds since the wish."""

        def us(seconds: float) -> int:
            return round(seconds * 1e6)

        end = max((stage.end for stage in self.stages), default=self.started)
        return {
            "service": self.service,
            "epoch": self.epoch,
            "cause": str(self.cause),
            "total_us": us(end - self.started),
            "failed": {"after_us": us(self.failed[0] - self.started), "reason": self.failed[1]}
            if self.failed
            else None,
            "stages": [
                {
                    "name": stage.name,
                    "at_us": us(stage.start - self.started),
                    "took_us": us(stage.end - stage.start),
                }
                for stage in sorted(self.stages, key=lambda stage: (stage.start, stage.end))
            ],
        }
