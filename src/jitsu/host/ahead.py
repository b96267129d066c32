"""What lies ready, so that no summons waits for it to be made."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from jitsu.errors import HostError
from jitsu.model import Name, Service

T = TypeVar("T")


class Ahead(Generic[T]):
    """One thing, made on a thread."""

    def __init__(self, submit: Callable[[], Future[T]]) -> None:
        """`submit` begins to make one; it may fail with HostError."""
        self._submit = submit
        self._made: Future[T] | None = None

    def prepare(self) -> None:
        """Have one made, unless there is one."""
        if self._made is None:
            self._made = self._submit()

    def take(self) -> T | None:
        """Return it; if it is still being made, it is the next boot's."""
        made = self._made
        if made is None or not made.done():
            return None
        self._made = None
        return made.result() if made.exception() is None else None

    async def taken(self) -> T | None:
        """Return it, when it is made if it is being made."""
        if self._made is not None and not self._made.done():
            with suppress(HostError):
                await asyncio.wrap_future(self._made)
        return self.take()


class AheadOf(Generic[T]):
    """One for each of a few services; while a service uses its own, there is no other."""

    def __init__(self, most: int, submit: Callable[[Service], Future[T]]) -> None:
        """Have it for so many services at most; `submit` begins to make one."""
        self._most = most
        self._submit = submit
        self._of: dict[Name, Ahead[T]] = {}
        self._soon: dict[Name, asyncio.TimerHandle] = {}
        self._has_begun = False

    def add(self, service: Service) -> None:
        """Have it for this service, too."""
        if len(self._of) < self._most:
            self._of[service.name] = Ahead(partial(self._submit, service))

    def begin(self) -> None:
        """Make all, and from now on anew what was used."""
        self._has_begun = True
        for each in self._of.values():
            each.prepare()

    def renew(self, name: Name, after: float) -> None:
        """Make that of a service anew in so many seconds, unless it is asked for meanwhile."""
        if self._has_begun and name in self._of:
            loop = asyncio.get_running_loop()
            self._soon[name] = loop.call_later(after, self._of[name].prepare)

    async def taken(self, name: Name) -> T | None:
        """Return that of a service, when it is made if it is being made."""
        if (timer := self._soon.pop(name, None)) is not None:
            timer.cancel()
        return await self._of[name].taken() if name in self._of else None

    def all(self) -> Iterable[Ahead[T]]:
        """Return them all."""
        return self._of.values()
