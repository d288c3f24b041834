# SPDX-License-Identifier: Apache-2.0
"""Pairs of calls in two regions, of all worlds; see ``between_regions``.

What is known not to be as it should be, or lost on purpose, stands in
``known_between_regions.txt``, line by line: what is found must be what stands
there.  The page on deviations says the same of all pairs:
``python -m tests.fault.regions_table`` writes it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

import pytest

from tests.fault import between_regions, regions_table, two_regions
from tests.fault.between_regions import Bench
from tests.fault.generated import SEED, World
from tests.fault.region_cases import Case, Outcome

#: Pairs that are looked at for one that both regions can do.
TRIES = 3


@pytest.fixture(scope='module')
def bench() -> Iterator[Bench]:
    with two_regions.started() as regions:
        bench = Bench(regions)
        yield bench
        bench.close()


def check(outcomes: Sequence[Outcome], cases: Sequence[Case]) -> None:
    """Compare what is found in some cases with what is known."""
    known, perhaps = between_regions.known(cases)
    found = {line for outcome in outcomes for line in outcome.lines}
    new, gone = sorted(found - known - perhaps), sorted(known - found)
    assert not new, '\n'.join(['new:', *new])
    assert not gone, '\n'.join(['no longer so, take them out:', *gone])


def chosen(bench: Bench, world: type[World]) -> list[Case]:
    """Return a case of a world, the same in all of a run."""
    chance = random.Random(f'{os.environ[SEED]} {world.__name__} regions')
    every = list(world.operations().values())
    for _ in range(TRIES):
        pair = chance.choice(every), chance.choice(every)
        if cases := bench.likely_cases(world, *pair):
            return [chance.choice(cases)]
    return []  # most of its calls need both regions


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'worlds' not in metafunc.fixturenames:
        return
    every = between_regions.worlds()
    if metafunc.config.getoption('all_pairs'):
        names = [world.__name__ for world in every]
        metafunc.parametrize('worlds', [[each] for each in every], ids=names)
    else:
        metafunc.parametrize('worlds', [every], ids=['some'])


def test_pairs(
    bench: Bench, worlds: list[type[World]], pytestconfig: pytest.Config
) -> None:
    every = pytestconfig.getoption('all_pairs')
    cases = [
        case
        for world in worlds
        for case in (bench.cases(world) if every else chosen(bench, world))
    ]
    outcomes = list(bench.run(cases))
    check(outcomes, cases)
    if every:
        (world,) = worlds
        assert regions_table.section(bench, world, outcomes) in (
            regions_table.PAGE.read_text()
        ), 'the page is to be written again'
