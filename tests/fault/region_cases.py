# SPDX-License-Identifier: Apache-2.0
"""Calls in two regions, and how what became of them is judged."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from keystone import exception

from tests.fault.generated import (
    DONE,
    UNAVAILABLE,
    Operation,
    State,
    World,
    difference,
    on_the_way,
)
from tests.fault.two_regions import START, Point


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Calls, of which the second one is made in the other region.

    :ivar begun: what of each is sent before the regions are cut off.
    """

    world: type[World]
    operations: tuple[Operation, ...]
    begun: tuple[Point, ...] = (START, START)

    def __str__(self) -> str:
        names = [
            f'{each.name} until {begun.name}' if begun.sent else each.name
            for each, begun in zip(self.operations, self.begun, strict=False)
        ]
        return f'{self.world.__name__}: {" beside ".join(names)}'


@dataclasses.dataclass
class Alone:
    """What calls do one after the other, in one region.

    :ivar said: what each was told.
    :ivar agreed: the points of the last one at which the regions have agreed
        on something, and the next write is one region's own.
    :ivar is_wide: whether its first write is one on which they agree.
    """

    said: tuple[str, ...]
    state: State
    agreed: list[Point]
    is_wide: bool


@dataclasses.dataclass
class Outcome:
    """What became of a case.

    :ivar wins: the name of the call whose effect is left, :data:`BOTH` or
        :data:`NEITHER`.
    :ivar wrong: what must not be.
    """

    case: Case
    said: tuple[str, ...]
    wins: str = ''
    wrong: list[str] = dataclasses.field(default_factory=list)

    @property
    def lines(self) -> set[str]:
        return {f'{self.case}: {each}' for each in self.wrong}


BOTH, NEITHER = 'both', 'neither'
ONE_IS_LOST = 'both are told done, and one of them is lost'


def is_not_found(said: str) -> bool:
    """Return whether somebody was told that what he wanted is not there."""
    kind = getattr(exception, said, None)
    return kind is not None and kind.code == 404


class Judge:
    """Tells what a case came to, by what its calls do without each other."""

    def __init__(
        self, case: Case, alone: Callable[..., Alone], said: tuple[str, ...]
    ) -> None:
        self.case = case
        self.said = said
        self._alone = alone

    def of(self, *numbers: int) -> Alone:
        """Return what calls do one after the other, given by number."""
        calls = (self.case.operations[number] for number in numbers)
        return self._alone(self.case.world, *calls)

    def outcome(self, state: State) -> Outcome:
        outcome = Outcome(self.case, self.said)
        numbers = range(len(self.said))
        done = {each for each in numbers if self.said[each] == DONE}
        if len(done) == len(self.said) == 2:
            outcome.wins = self._both_done(state, outcome.wrong)
            return outcome
        # What was not done, or perhaps not, is there or it is not.
        ends = [
            self.of(*order).state
            for count in range(len(numbers) + 1)
            for order in itertools.permutations(numbers, count)
            if done <= {*order}
        ]
        if not self._is_end(state, ends):
            outcome.wrong.append(self._told(difference(state, ends)))
        if done:
            outcome.wins = self.case.operations[min(done)].name
        return outcome

    def _is_end(self, state: State, ends: list[State]) -> bool:
        """Return whether a state is one of these, or has parts of others.

        Parts that a call does before the rest, or leaves when it gets no
        answer.
        """
        apart: set[str] = set()
        for operation, said in zip(
            self.case.operations, self.said, strict=True
        ):
            if said in UNAVAILABLE:
                partly = operation.partly
                apart |= {*state} if partly is None else {*partly}
        return on_the_way(state, ends, apart)

    def _both_done(self, state: State, wrong: list[str]) -> str:
        """Return what wins where both were told that they are done."""
        names = [each.name for each in self.case.operations]
        orders = [self.of(0, 1), self.of(1, 0)]
        fits = [last for last in (1, 0) if orders[1 - last].state == state]
        if not fits:
            ends = [order.state for order in orders]
            wrong.append(self._told(difference(state, ends)))
            return NEITHER
        if all(self.of(number).state == state for number in (0, 1)):
            return BOTH
        refused = {
            last: orders[1 - last].said[1]
            for last in fits
            if orders[1 - last].said[1] != DONE
        }
        if not refused:
            return BOTH if len(fits) == 2 else names[fits[0]]
        for last, said in refused.items():
            if is_not_found(said):
                return names[1 - last]
        if len(refused) < len(fits):
            return BOTH
        wrong.append(ONE_IS_LOST)
        return names[1 - min(refused)]

    def _told(self, what: str) -> str:
        return f'{", ".join(self.said)}: {what}'
