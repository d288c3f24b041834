# SPDX-License-Identifier: Apache-2.0
"""The database node of region 2 is killed while 1 and 3 are asked."""

from __future__ import annotations

import functools
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from lab.benchmark.regions.sites import Answer, Person, Site, System
from lab.benchmark.regions.tally import Tally, brief
from lab.regions.bed import Bed
from lab.waiting import until

#: Requests of a loop: before, and after at least and at most.
_BEFORE, _LEAST, _MOST = 12, 40, 400
#: It is steady again once so many in a row have taken at most so many times
#: what they took before.
_STEADY, _TIMES = 12, 3
_PART = 'f'


class Sent(NamedTuple):
    """A request of a loop, on the monotonic clock in seconds."""

    began: float
    answer: Answer

    @property
    def ended(self) -> float:
        return self.began + self.answer.seconds


def is_steady(before: Sequence[Sent], after: Sequence[Sent]) -> bool:
    """Whether a loop is as it was, or has gone on for long enough."""
    if len(after) >= _MOST:
        return True
    if len(after) < _LEAST:
        return False
    usual = statistics.median(each.answer.seconds for each in before)
    return all(
        each.answer.ok and each.answer.seconds <= _TIMES * usual
        for each in after[-_STEADY:]
    )


def split(
    sent: Sequence[Sent], killed: float
) -> tuple[Sequence[Sent], Sequence[Sent]]:
    """Return what had ended by then, and what had not."""
    return (
        [each for each in sent if each.ended <= killed],
        [each for each in sent if each.ended > killed],
    )


class _Loop:
    """Requests to one site, one after the other; a thread's."""

    def __init__(self, requests: Iterator[Answer]) -> None:
        self.sent: list[Sent] = []
        self._requests = requests
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.sent.append(Sent(began, next(self._requests)))

    def stop(self) -> None:
        self._stop.set()


def _reads(site: Site, person: Person) -> Iterator[Answer]:
    """Log in and have that token validated, without end."""
    while True:
        answer = site.log_in_person(person)
        yield answer
        yield site.validate(answer.token or site.admin)


def _changes(site: Site, person: Person) -> Iterator[Answer]:
    """Change a user, without end."""
    for number in itertools.count():
        yield site.update_user(person.user, description=str(number))


_KINDS: Mapping[str, Callable[[Site, Person], Iterator[Answer]]] = {
    'log-in, validation': _reads,
    'change of a user': _changes,
}


def measure(bed: Bed, system: System, tally: Tally) -> None:
    """Kill the node for each kind of request; it runs again at the end."""
    sites = {1: system.first, 3: system.third}
    for what, requests in _KINDS.items():
        people = system.people(len(sites))
        loops = {
            number: _Loop(requests(site, person))
            for (number, site), person in zip(
                sites.items(), people, strict=True
            )
        }
        killed = _while_they_run(
            loops.values(),
            functools.partial(bed.region(2).kill, system.node),
        )
        for number, loop in loops.items():
            line = f'{what}, region {number}, node of 2 killed'
            text = told(*split(loop.sent, killed))
            tally.tell(_PART, line, system.name, text)
        bed.restart(2, system.node)


def _while_they_run(
    loops: Collection[_Loop], kill: Callable[[], None]
) -> float:
    """Let loops run until they are steady; return when it was killed."""
    with ThreadPoolExecutor(len(loops)) as threads:
        futures = [threads.submit(loop.run) for loop in loops]
        try:
            until(
                lambda: _all(loops, futures, _begun),
                f'{_BEFORE} answers before',
            )
            killed = time.monotonic()
            kill()
            until(
                lambda: _all(
                    loops,
                    futures,
                    lambda loop: is_steady(*split(list(loop.sent), killed)),
                ),
                'steady answers after the end of a node',
            )
        finally:
            for loop in loops:
                loop.stop()
    return killed


def _begun(loop: _Loop) -> bool:
    return len(loop.sent) >= _BEFORE


def _all(
    loops: Collection[_Loop],
    futures: Sequence[Future[None]],
    condition: Callable[[_Loop], bool],
) -> bool:
    for future in futures:
        if future.done():
            future.result()  # raises what has ended it
    return all(map(condition, loops))


def told(before: Sequence[Sent], after: Sequence[Sent]) -> str:
    """Return the longest answer after, and how many were errors."""
    usual = statistics.median(each.answer.seconds for each in before)
    longest = max(each.answer.seconds for each in after)
    errors = sum(not each.answer.ok for each in after)
    return (
        f'longest {brief(longest)} (before {brief(usual)}),'
        f' {errors} errors of {len(after)}'
    )
