# SPDX-License-Identifier: Apache-2.0
"""Pairs of calls in two regions that do not hear of each other.

A world is made, and both regions know all of it.  Then nothing gets through
between them: servers of one region do ``first``, after that those of the
other one do ``other``.  What they have done arrives late, and is judged once
both regions have all of it: by what callers were told, and by what each call
does alone, and the two one after the other.

* Both regions show the same, and nothing is wrong (:meth:`World.wrong`).
* It is what one order or the other would give, or what the one that was
  told to be done gives without the other.
* What was told to be done is there, or a removal has won over it.

What needs both regions is answered with 503, and may be done yet.  So such a
call begins while the regions hear of each other, too, and goes on without,
once they have agreed on something.  Where neither of two can be done while
the regions are cut off they meet as in one region.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import itertools
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from lab.waiting import WaitedInVain, until

from keystone_cassandra_token.db import errors
from tests import entities
from tests.fault import region_token_worlds, region_worlds
from tests.fault.generated import (
    UNAVAILABLE,
    Operation,
    State,
    World,
    difference,
    told,
)
from tests.fault.region_cases import (
    NEITHER,
    Alone,
    Case,
    Judge,
    Outcome,
)
from tests.fault.two_regions import (
    LONGEST,
    PATIENCE,
    SETTINGS,
    START,
    Call,
    Regions,
    seen_from,
)

#: Cases that are made and judged side by side.
SIDE_BY_SIDE = 4
#: Cases of one world for which the regions are cut off once.
AT_ONCE = 60
#: What is known to be wrong, or so on purpose.
KNOWN = pathlib.Path(__file__).with_name('known_between_regions.txt')
#: Begins a line of it that need not be found: the time decides.
PERHAPS = '? '
#: How often a case is tried in which a region gave no answer by itself.
TRIES = 5

T = TypeVar('T')
U = TypeVar('U')


def worlds() -> list[type[World]]:
    """Return the worlds whose pairs meet in one region, and some more."""
    found: dict[type[World], None] = {}
    for path in sorted(pathlib.Path(__file__).parent.glob('test_*.py')):
        text = path.read_text()
        if '(Generated)' in text and '(World)' in text:
            module = importlib.import_module(f'tests.fault.{path.stem}')
            for each in vars(module).values():
                world = getattr(each, 'world', None)
                if getattr(each, 'test_pairs', None) and world:
                    found[world] = None
    return [*found, *region_worlds.WORLDS, *region_token_worlds.WORLDS]


#: Tables of which what many worlds have is in one partition.
CROWDED = {
    SETTINGS,
    *(
        table
        for table, entity in entities.ALL.items()
        if entity.single_partition
    ),
}


def known(cases: Iterable[Case]) -> tuple[set[str], set[str]]:
    """Return what is known of some cases: what is so, and what may be."""
    lines = KNOWN.read_text().splitlines()
    begins = tuple(f'{case}: ' for case in cases)
    return (
        {line for line in lines if line.startswith(begins)},
        {
            line.removeprefix(PERHAPS)
            for line in lines
            if line.startswith(PERHAPS)
        },
    )


class Unanswered(Exception):
    """A call got no answer, though nothing is cut off: all is busy."""


def again(work: Callable[[], T], until: type[Exception]) -> T:
    """Do something again while it fails, but not for ever."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(until):
            return work()
    return work()


class Bench:
    """Makes worlds in two regions, and finds out what becomes of them."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self._alone: dict[tuple[Any, ...], Alone] = {}
        self._crowded: dict[type[World], bool] = {}
        self._cut_off: dict[type[World], dict[str, str]] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def each(
        self,
        work: Callable[[T], U],
        of: Iterable[T],
        world: Callable[[T], type[World]],
    ) -> list[U]:
        """Do the same with each; return the results in their order.

        Side by side, but for those that would get into each other's way.

        :param world: returns what each works on.
        """
        every = list(of)
        crowded = [self.is_crowded(world(each)) for each in every]
        apart = iter(
            [
                self._threads.submit(work, each)
                for each, waits in zip(every, crowded, strict=True)
                if not waits
            ]
        )
        found = [
            work(each) if waits else None
            for each, waits in zip(every, crowded, strict=True)
        ]
        return [
            cast(U, each) if waits else next(apart).result()
            for each, waits in zip(found, crowded, strict=True)
        ]

    def is_crowded(self, world: type[World]) -> bool:
        """Return whether worlds of a kind get into each other's way.

        Conditional writes of one partition do, and what both regions must
        agree on takes so long that some are given up.
        """
        if world not in self._crowded:
            steps = self.regions.steps[0]
            before, steps.written = steps.written, set()
            self.make(world)
            self._crowded[world] = not steps.written.isdisjoint(CROWDED)
            steps.written |= before
        return self._crowded[world]

    def make(self, world: type[World]) -> World:
        made = again(lambda: world(self.regions.here), errors.StoreUnavailable)
        # Who is cut off leaves names that can be taken over.
        made.disturbed = True
        return made

    def alone(self, world: type[World], *operations: Operation) -> Alone:
        """Do calls one after the other, once for all cases."""
        key = (world, *(each.name for each in operations))
        if key not in self._alone:
            self._alone[key] = again(
                lambda: self._done_alone(world, operations), Unanswered
            )
        return self._alone[key]

    def _done_alone(
        self, world: type[World], operations: tuple[Operation, ...]
    ) -> Alone:
        made = self.make(world)
        said, agreed, is_wide = [], [], False
        for each in operations:
            with self.regions.steps[0].watched() as call:
                said.append(told(each.call, made))
            if said[-1] in UNAVAILABLE:
                raise Unanswered(each.name)
            agreed, is_wide = call.agreed, call.is_wide
        return Alone(tuple(said), made.state(), agreed, is_wide)

    def run(self, cases: Iterable[Case]) -> Iterator[Outcome]:
        """Do cases, many at a time."""
        left = list(cases)
        tries = dict.fromkeys(left, 0)
        while left:
            some, left = left[:AT_ONCE], left[AT_ONCE:]
            for run, outcome in self._run(some):
                tries[run.case] += run.is_ended
                if outcome is not None:
                    yield outcome
                elif tries[run.case] < TRIES:
                    left.append(run.case)
                else:
                    wrong = [f'{", ".join(run.said)} by its own region']
                    yield Outcome(run.case, run.said, NEITHER, wrong)
        # What is there of others is in everybody's lists.
        self.regions.empty()

    def _run(self, cases: Sequence[Case]) -> list[tuple[Run, Outcome | None]]:
        """Do some; the outcome of one that must be done again is None."""
        wanted = {
            (case.world, *(each.name for each in order)): (case.world, *order)
            for case in cases
            for count in range(len(case.operations) + 1)
            for order in itertools.permutations(case.operations, count)
        }
        self.each(
            lambda key: self.alone(*key), wanted.values(), lambda key: key[0]
        )
        runs = self.each(
            lambda case: Run(case, self.make(case.world), self.regions),
            cases,
            lambda case: case.world,
        )
        with contextlib.ExitStack() as stack:
            for run in runs:
                stack.callback(run.end)
            self.each(Run.begin, runs, world_of)
            with self.regions.held():
                end = time.monotonic() + LONGEST / 2
                self.each(
                    lambda run: time.monotonic() < end and run.end(),
                    runs,
                    world_of,
                )
                for run in runs:
                    run.is_over = True
        self.regions.settle()
        outcomes = self.each(self._judged, runs, world_of)
        return list(zip(runs, outcomes, strict=True))

    def _judged(self, run: Run) -> Outcome | None:
        if not run.is_done:
            return None
        judge = Judge(run.case, self.alone, run.said)
        both = [seen_from(run.world, each) for each in self.regions.stores]
        seen: list[State] = []

        def same() -> bool:
            seen[:] = [each.state() for each in both]
            return seen[0] == seen[1]

        try:
            until(same, 'the same in both regions', PATIENCE)
        except WaitedInVain as error:
            wrong = [f'{error}: {difference(seen[0], seen[1:])}']
            return Outcome(run.case, run.said, NEITHER, wrong)
        outcome = judge.outcome(seen[0])
        outcome.wrong += dict.fromkeys(
            wrong
            for each in both
            for wrong in again(each.wrong, errors.StoreUnavailable)
        )
        return outcome

    def alone_cut_off(self, world: type[World]) -> dict[str, str]:
        """Return what each call is told that one region does by itself."""
        if world not in self._cut_off:
            every = world.operations().values()
            outcomes = list(self.run([Case(world, (each,)) for each in every]))
            assert not any(each.wrong for each in outcomes), outcomes
            self._cut_off[world] = {
                each.case.operations[0].name: each.said[0] for each in outcomes
            }
        return self._cut_off[world]

    def cases(self, world: type[World]) -> list[Case]:
        """Return all cases of a world."""
        said = self.alone_cut_off(world)
        wide = {name for name, each in said.items() if each in UNAVAILABLE}
        return [
            case
            for pair in itertools.product(
                world.operations().values(), repeat=2
            )
            for case in self._cases(world, pair, wide)
        ]

    def likely_cases(self, world: type[World], *pair: Operation) -> list[Case]:
        """Return what are cases of two calls, if these are what they seem."""
        wide = {each.name for each in pair if self.alone(world, each).is_wide}
        return self._cases(world, pair, wide)

    def _cases(
        self,
        world: type[World],
        pair: tuple[Operation, ...],
        wide: Collection[str],
    ) -> list[Case]:
        """Return the cases of two calls.

        :param wide: the calls that need both regions: they are begun before
            these are cut off, too.
        """
        first, other = (
            self.alone(world, each).agreed if each.name in wide else []
            for each in pair
        )
        if {*wide}.issuperset(each.name for each in pair):
            points = itertools.product(first, other)
        else:
            points = itertools.product([START, *first], [START])
        return [Case(world, pair, each) for each in points]


class Run:
    """One case under way.

    :ivar is_ended: whether all calls have ended.
    :ivar is_over: whether the regions were cut off long enough.
    """

    def __init__(self, case: Case, world: World, regions: Regions) -> None:
        self.case = case
        self.world = world
        self.is_ended = self.is_over = False
        self._calls = [
            Call(
                steps,
                functools.partial(told, each.call, seen_from(world, store)),
                begun.sent,
            )
            for each, begun, steps, store in zip(
                case.operations,
                case.begun,
                regions.steps,
                regions.stores,
                strict=False,
            )
        ]

    @property
    def said(self) -> tuple[str, ...]:
        return tuple(str(call.said) for call in self._calls)

    @property
    def is_done(self) -> bool:
        """Whether no region failed to answer what it can do by itself."""
        return self.is_ended and all(
            call.lost or call.said not in UNAVAILABLE for call in self._calls
        )

    def begin(self) -> None:
        """Do what is done of calls before the regions are cut off."""
        for call in self._calls:
            call.begin()

    def end(self) -> None:
        """Do the rest; idempotent.

        What both have begun ends in their order.  Else what was begun before
        ends after what was not.
        """
        both = all(call.is_begun for call in self._calls)
        for call in sorted(
            self._calls, key=lambda call: not both and call.is_begun
        ):
            if call.is_begun or not self.is_over:
                call.end()
        self.is_ended = not self.is_over or self.is_ended


def world_of(run: Run) -> type[World]:
    return run.case.world
