# SPDX-License-Identifier: Apache-2.0
"""Unique names keep their promises, whatever happens in whichever order.

The model of :mod:`tests.unit.names_model` is looked through for small numbers
of calls, datacenters and faults.  The promises:

* no two entities have one name, and each entity has the claim of its name.
  With one datacenter that holds in every state, with two once all attempts
  have ended and the datacenters have told each other;
* what was acknowledged stays: who was created or renamed is there, and has
  that name unless another call has renamed or deleted it; who was deleted does
  not come back;
* no name is stuck: once all attempts have ended, another id can be created
  with it, or an entity has it.

``--all-pairs`` looks at all cases, of some with more faults, which takes an
hour instead of seconds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest

from tests.unit.names_explorer import Found, explore
from tests.unit.names_model import Rules
from tests.unit.names_world import Call, Start, World

#: Which cases of many are looked at.
SEED = 11

#: How many states of a case with two datacenters; ten times that with
#: ``--all-pairs``.
CUT = 20_000
#: After how many cases what was found out is forgotten, to save memory.
REMEMBERED = 100

STARTS = (
    Start('nothing'),
    Start('X has M', owned={'M': 'X'}, named={'X': 'M'}),
    Start('X has N', owned={'N': 'X'}, named={'X': 'N'}),
    Start('X left the claim of N', owned={'N': 'X'}),
    Start('X may yet be created with N', owned={'N': 'X'}, late=('X',)),
    Start('X was deleted, and left N', owned={'N': 'X'}, buried=('X',)),
    Start('X has M, and left N', owned={'M': 'X', 'N': 'X'}, named={'X': 'M'}),
    Start(
        'X has M, Y has N',
        owned={'M': 'X', 'N': 'Y'},
        named={'X': 'M', 'Y': 'N'},
    ),
)
START = {start.text: start for start in STARTS}

CALLS = (
    Call('create', ('X', 'N')),
    Call('create', ('Y', 'N')),
    Call('create', ('X', 'M')),
    Call('create', ('Y', 'M')),
    Call('rename', ('X', 'N')),
    Call('rename', ('X', 'M')),
    Call('rename', ('X', '*')),
    Call('rename', ('Y', 'M')),
    Call('delete', ('X',)),
    Call('delete', ('Y',)),
)

Case = tuple[Start, tuple[Call, ...]]
Check = Callable[..., None]

#: One datacenter shares the claim of another, and what they write of it comes
#: together in one row: whoever frees that claim takes the name from its owner.
SHARED_IN_TWO: tuple[Case, ...] = (
    (
        START['nothing'],
        (
            Call('create', ('X', 'N')),
            Call('create', ('X', 'N'), 1),
            Call('delete', ('X',), 1),
        ),
    ),
    (
        START['X has M'],
        (
            Call('rename', ('X', 'N')),
            Call('rename', ('X', 'N'), 1),
            Call('rename', ('X', 'M'), 1),
        ),
    ),
)


def cases(calls: int, datacenters: int = 1) -> list[Case]:
    """Return all cases of a size.

    With several datacenters at least two of them are called.
    """
    return [
        (
            start,
            tuple(
                call._replace(datacenter=datacenter)
                for call, datacenter in zip(chosen, where, strict=True)
            ),
        )
        for start in STARTS
        for chosen in itertools.combinations_with_replacement(CALLS, calls)
        for where in itertools.product(range(datacenters), repeat=calls)
        if len(set(where)) == min(datacenters, 2)
        # Which is which does not matter, unless something is in one already.
        if where[0] == 0 or start.late
    ]


def ids_used_once(case: Case) -> bool:
    """Return whether no id has been created before, or is created twice."""
    start, calls = case
    used = [*start.named, *start.late, *start.buried]
    used += [call.args[0] for call in calls if call.operation == 'create']
    return len(set(used)) == len(used)


def on_one_entity(case: Case) -> bool:
    """Return whether two calls are on one entity."""
    _, calls = case
    return len({call.args[0] for call in calls}) < len(calls)


@pytest.fixture
def check(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Check:
    """Look at cases, all of which must be right, and print how many."""

    def check(
        chosen: Sequence[Case],
        rules: Rules | None = None,
        datacenters: int = 1,
        faults: int = 0,
        faults_of_all: int | None = None,
        sample: int | None = None,
        always: Sequence[Case] = (),
        cut: int | None = None,
    ) -> None:
        everything = bool(request.config.getoption('all_pairs'))
        if everything and faults_of_all is not None:
            faults = faults_of_all
        of = len(chosen)
        if sample is not None and not everything:
            chosen = random.Random(SEED).sample(chosen, sample)
        states = incomplete = 0
        limit = {} if cut is None else {'limit': cut * (1 + 9 * everything)}
        for at, (start, calls) in enumerate([*always, *chosen]):
            if at % REMEMBERED == 0:
                # A known limit of deletions without a marker.
                again = rules is None or rules.bury
                world = World(rules, datacenters, sent_again=again)
            found = explore(world, start, calls, faults, **limit)
            assert found.flaw is None, told(start, calls, found)
            states += found.states
            incomplete += found.cut
        with capsys.disabled():
            text = (
                f'{faults} faults, {len(chosen)} of {of} cases,'
                f' {states} states'
            )
            if len(chosen) < of:
                text += f' (seed {SEED})'
            if incomplete:
                text += f', {incomplete} not to the end'
            print(f'\n{request.node.name}: {text}')

    return check


def told(start: Start, calls: Sequence[Call], found: Found) -> str:
    return '\n'.join(
        [
            f'{found.flaw}, after {found.states} states',
            f'{start.text}; {", ".join(map(str, calls))}:',
            *found.trace,
        ]
    )


def test_pairs(check: Check) -> None:
    check(cases(2), faults=2)


def test_triples(check: Check) -> None:
    check(cases(3), sample=150, faults_of_all=1)


def test_pairs_with_ids_that_do_not_come_back(check: Check) -> None:
    chosen = [case for case in cases(2) if ids_used_once(case)]
    check(chosen, Rules(bury=False), faults=1, faults_of_all=2)


def test_triples_with_ids_that_do_not_come_back(check: Check) -> None:
    chosen = [case for case in cases(3) if ids_used_once(case)]
    check(chosen, Rules(bury=False), sample=120)


def test_pairs_of_two_datacenters(check: Check) -> None:
    check(cases(2, 2), datacenters=2, faults_of_all=1)


def test_triples_of_two_datacenters(check: Check) -> None:
    chosen = [case for case in cases(3, 2) if on_one_entity(case)]
    check(chosen, datacenters=2, sample=40, always=SHARED_IN_TWO, cut=CUT)


#: By the rule that is off: what shows that it is needed.
MUTATIONS: dict[str, tuple[Case, int]] = {
    'take_over': (
        (START['X left the claim of N'], (Call('create', ('Y', 'N')),)),
        0,
    ),
    'fence': (
        (
            START['X may yet be created with N'],
            (Call('create', ('Y', 'N')),),
        ),
        0,
    ),
    'look_again': (
        (
            START['X may yet be created with N'],
            (Call('create', ('Y', 'N')),),
        ),
        0,
    ),
    'compare_stamp': (
        (
            START['X has M, and left N'],
            (Call('rename', ('X', 'M')), Call('rename', ('X', '*'))),
        ),
        0,
    ),
    'keep_shared': (
        (
            START['X may yet be created with N'],
            (Call('create', ('X', 'N')),),
        ),
        0,
    ),
    'leave_shared': (SHARED_IN_TWO[0], 0),
    'renew_at_marker': (
        (
            START['nothing'],
            (Call('create', ('X', 'N')), Call('create', ('Y', 'N'))),
        ),
        0,
    ),
    'renew_in_rounds': (
        (
            START['X has M'],
            (Call('create', ('Y', 'N')), Call('rename', ('X', 'N'))),
        ),
        0,
    ),
    'bury': (
        (
            START['X may yet be created with N'],
            (Call('create', ('X', 'M')), Call('delete', ('X',))),
        ),
        1,
    ),
    'stamp_in_row': (
        (
            START['X may yet be created with N'],
            (Call('create', ('X', 'N'), 1), Call('rename', ('X', 'M'))),
        ),
        0,
    ),
    'settle_by_fence': (
        (START['nothing'], (Call('create', ('X', 'N')),)),
        1,
    ),
    'settle_seen': (
        (
            START['X may yet be created with N'],
            (Call('create', ('X', 'M'), 1), Call('create', ('Y', 'M'))),
        ),
        1,
    ),
    'mine_by_stamp': (
        (
            START['X left the claim of N'],
            (Call('create', ('Y', 'N')), Call('create', ('X', 'M'))),
        ),
        1,
    ),
    'write_as_claimed': (
        (
            START['X has M'],
            (Call('rename', ('X', 'N')), Call('rename', ('X', '*'))),
        ),
        0,
    ),
    'born': (
        (
            START['X has M'],
            (Call('rename', ('X', 'N')), Call('delete', ('X',), 1)),
        ),
        0,
    ),
}


@pytest.mark.parametrize('rule', [each.name for each in fields(Rules)])
def test_each_rule_is_needed(rule: str) -> None:
    """Without it the model finds what goes wrong, and with it nothing."""
    (start, calls), faults = MUTATIONS[rule]
    datacenters = 1 + max(call.datacenter for call in calls)
    right = explore(World(datacenters=datacenters), start, calls, faults)
    assert right.flaw is None, told(start, calls, right)
    without = replace(Rules(), **{rule: False})
    wrong = explore(World(without, datacenters), start, calls, faults)
    assert wrong.flaw


def test_a_creation_sent_twice_comes_back_without_a_marker() -> None:
    """The limit that the model's docstring states."""
    calls = (Call('create', ('X', 'N')), Call('delete', ('X',)))
    assert explore(World(), START['nothing'], calls, 1).flaw is None
    world = World(Rules(bury=False))
    assert explore(world, START['nothing'], calls, 1).flaw
    world = World(Rules(bury=False), sent_again=False)
    assert explore(world, START['nothing'], calls, 1).flaw is None


def test_shared_claims_are_left_by_a_rename() -> None:
    start, calls = SHARED_IN_TWO[1]
    world = World(Rules(leave_shared=False), datacenters=2)
    assert explore(world, start, calls).flaw
