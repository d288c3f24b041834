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
from collections.abc import Iterable, Iterator

import pytest

from tests.fault import between_regions, regions_table, two_regions
from tests.fault.between_regions import Bench
from tests.fault.generated import SEED, World
from tests.fault.region_cases import Case

#: Pairs of one world in a run, of all.
PAIRS = 2


@pytest.fixture(scope='module')
def bench() -> Iterator[Bench]:
    with two_regions.started() as regions:
        bench = Bench(regions)
        yield bench
        bench.close()


def check(found: Iterable[str], cases: Iterable[Case]) -> None:
    """Compare what is found in some cases with what is known."""
    known, perhaps = between_regions.known(cases)
    new = sorted(set(found) - known - perhaps)
    gone = sorted(known - set(found))
    assert not new, '\n'.join(['new:', *new])
    assert not gone, '\n'.join(['no longer so, take them out:', *gone])


def chosen(bench: Bench, world: type[World]) -> list[Case]:
    """Return some cases of a world, the same in all of a run."""
    chance = random.Random(f'{os.environ[SEED]} {world.__name__} regions')
    every = bench.likely_cases(world)
    return chance.sample(every, min(PAIRS, len(every)))


def test_pairs(bench: Bench, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption('all_pairs'):
        pytest.skip('all of them are done')
    cases = [
        case
        for world in between_regions.worlds()
        for case in chosen(bench, world)
    ]
    check((line for each in bench.run(cases) for line in each.lines), cases)


@pytest.mark.parametrize(
    'world', between_regions.worlds(), ids=lambda world: world.__name__
)
def test_all_pairs(
    bench: Bench, world: type[World], pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption('all_pairs'):
        pytest.skip('a few of them are done')
    cases = bench.cases(world)
    outcomes = list(bench.run(cases))
    check((line for each in outcomes for line in each.lines), cases)
    assert regions_table.section(bench, world, outcomes) in (
        regions_table.PAGE.read_text()
    ), 'write the page again'
