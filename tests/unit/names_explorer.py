# SPDX-License-Identifier: Apache-2.0
"""Visits all states of the model of unique names, until one is wrong."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from tests.unit.names_world import (
    ATTEMPTS,
    CLAIMS,
    FAULTS,
    ROWS,
    UNDER_WAY,
    Call,
    Start,
    State,
    World,
)


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of it.

    :ivar flaw: what is wrong at last; None if nothing was.
    :ivar trace: the shortest way there.
    :ivar cut: whether there were more states than the limit; those that take
        fewer steps were visited.
    """

    states: int
    flaw: str | None = None
    trace: tuple[str, ...] = ()
    cut: bool = False


def explore(
    world: World,
    start: Start,
    calls: Sequence[Call],
    faults: int = 0,
    limit: int = 1_000_000,
) -> Found:
    """Visit every state until one is wrong."""
    first = world.start(start, calls, faults)
    came_from: dict[State, State | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        if flaw := _wrong(world, start, calls, state):
            trace = tuple(_traced(world, calls, came_from, state))
            return Found(len(came_from), flaw, trace)
        for following in world.after(state):
            if following not in came_from:
                came_from[following] = state
                queue.append(following)
        if len(came_from) > limit:
            return Found(len(came_from), cut=True)
    return Found(len(came_from))


def _wrong(
    world: World, start: Start, calls: Sequence[Call], state: State
) -> str | None:
    attempts = state[ATTEMPTS:]
    at_rest = all(each in world.outcomes for each in attempts)
    # With several datacenters, others may be told in any order until then.
    if not at_rest and world.datacenters > 1:
        return None
    names = world.names(state[ROWS])
    if names is None:
        return None
    if flaw := world.flaw(state[CLAIMS], state[ROWS]):
        return flaw
    if not at_rest:
        return None
    outcomes = [world.outcomes[each] for each in attempts]
    return _lost(start, calls, outcomes, names) or world.stuck(
        state[CLAIMS], state[ROWS]
    )


def _lost(
    start: Start,
    calls: Sequence[Call],
    outcomes: list[str],
    names: dict[str, str],
) -> str | None:
    """Say what was acknowledged and is not so."""
    for owner in sorted({call.args[0] for call in calls}):
        of = [
            (call, outcome)
            for call, outcome in zip(calls, outcomes, strict=True)
            if call.args[0] == owner
        ]
        operations = [call.operation for call, _ in of]
        told = [outcome for _, outcome in of]
        if 'delete' not in operations:
            made = {'made', 'renamed'} & {*told} or owner in start.named
            if made and owner not in names:
                return f'{owner} is lost'
        created = 'create' in operations or owner in start.late
        if 'deleted' in told and not created and owner in names:
            return f'{owner} has come back'
        alone = len(of) == 1 and owner not in start.late
        if alone and of[0][1] in ('made', 'renamed'):
            wanted = of[0][0].args[1]
            if wanted not in ('*', names.get(owner)):
                return f'{owner} has not the name {wanted}'
    return None


def _traced(
    world: World,
    calls: Sequence[Call],
    came_from: dict[State, State | None],
    state: State,
) -> Iterator[str]:
    way = [state]
    while (before := came_from[way[-1]]) is not None:
        way.append(before)
    way.reverse()
    for before, after in itertools.pairwise(way):
        moved = [
            at
            for at in range(ATTEMPTS, len(before))
            if before[at] != after[at]
        ]
        if not moved:
            what = (
                'a request is applied late'
                if before[UNDER_WAY] != after[UNDER_WAY]
                else 'a datacenter tells another'
            )
            yield f'{what}: {_shown(world, after)}'
            continue
        (at,) = moved
        text = f'[{calls[at - ATTEMPTS]}] {world.request(before[at])}'
        if before[FAULTS] != after[FAULTS]:
            text += ', unknown'
            if after[at] == world.crashed:
                text += ', and crashes'
            if before[UNDER_WAY] != after[UNDER_WAY]:
                text += ', under way'
        if after[at] in world.outcomes:
            text += f', ends: {world.outcomes[after[at]]}'
        yield f'{text}: {_shown(world, after)}'


def _shown(world: World, state: State) -> str:
    return (
        f'{dict(world.claims.values[state[CLAIMS]])}'
        f' {dict(world.rows.values[state[ROWS]])}'
    )
