# SPDX-License-Identifier: Apache-2.0
"""Clients in all regions, while things go wrong: no promise is broken.

Each region has Cassandra, a Keystone and a cache in a network of its own.  By
default one small history is made; ``tools/test regions`` makes all of the
manual.  A history that breaks a promise is kept, and named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.regions import namespaces
from lab.regions.bed import Bed

from tests.regions import nemesis, planted, table
from tests.regions.planted import PLANTS, Plant
from tests.regions.run import RTT_MS, Plan, Result, Run, put_right
from tests.regions.settling import Marks, marks

#: Nodes of each region.
LAYOUTS = {
    'two': (1, 1),
    'three': (1, 1, 1),
    'three nodes': (3, 1),
}
_SMALL = 'two'
_SMALL_SEED, _SMALL_SECONDS, _SECONDS = 1, 25, 120
#: Of the histories that are made of a planted fault until it is found.
_SEEDS_OF_PLANTS = range(1, 7)
#: What takes long to start is left out of a small one.
_QUICK_FAULTS: nemesis.Weights = {
    'cut': 4,
    'pause node': 2,
    'pause keystone': 1,
    'loss': 1,
    'slow': 1,
}


def layout(seed: int) -> str:
    """Return the layout of a seed: each fourth has three replicas in one."""
    return 'three nodes' if seed % 4 == 0 else 'three'


def numbers(text: str) -> list[int]:
    """Return the numbers of a text like ``1-3,7``."""
    found: list[int] = []
    for part in text.split(','):
        first, _, last = part.partition('-')
        found += range(int(first), int(last or first) + 1)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    several: list[Any]
    if 'seed' in metafunc.fixturenames:
        text = config.getoption('seeds', None)
        several = [(layout(seed), seed) for seed in numbers(text or '0')]
        if not text:
            several = [(_SMALL, _SMALL_SEED)]
        if config.getoption('planted', None) and not text:
            several = [_not_chosen('--seeds')]
        metafunc.parametrize(
            ('bed', 'seed'), several, indirect=['bed'], scope='module'
        )
    if 'plant' in metafunc.fixturenames:
        chosen = PLANTS if config.getoption('planted', None) else ()
        several = [(each.layout, each) for each in chosen]
        several = several or [_not_chosen('--planted')]
        metafunc.parametrize(
            ('bed', 'plant'),
            several,
            indirect=['bed'],
            scope='module',
            ids=[each.name for each in chosen] or None,
        )


def _not_chosen(option: str) -> Any:
    reason = f'{option} was not given'
    return pytest.param(_SMALL, None, marks=pytest.mark.skip(reason), id='-')


@pytest.fixture(scope='module')
def bed(request: pytest.FixtureRequest) -> Iterator[tuple[Bed, Marks]]:
    """A bed of a layout, for all of its histories."""
    try:
        namespaces.Namespace('10.77.1.254', []).close()
    except namespaces.NotAllowed as error:
        pytest.skip(str(error))
    nodes = LAYOUTS[request.param]
    with (
        Bed.start(
            regions=len(nodes),
            nodes=nodes,
            rtt_ms=RTT_MS,
            # What a node could not send is lost with it for a second, not
            # for ten.
            cassandra={'yaml': {'hints_flush_period': '1s'}},
            seed=1,
        ) as bed,
        marks(bed) as made,
    ):
        yield bed, made


def _run(
    bed: tuple[Bed, Marks], plan: Plan, path: Path, name: str = ''
) -> Result:
    try:
        return Run(*bed, plan, path).run()
    except BaseException:
        # Others use the bed.
        put_right(bed[0])
        raise


def _folder(request: pytest.FixtureRequest, default: Path) -> Path:
    given = request.config.getoption('histories', None)
    folder = Path(given) if given else default
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(
    request: pytest.FixtureRequest, result: Result, plant: str = ''
) -> None:
    if path := request.config.getoption('record', None):
        with Path(path).open('a') as file:
            file.write(table.line(result, plant) + '\n')


def test_no_promise_is_broken(
    bed: tuple[Bed, Marks],
    seed: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    seconds = request.config.getoption('seconds', None)
    plan = Plan(seed, seconds or _SECONDS)
    if not request.config.getoption('seeds', None):
        plan = Plan(seed, seconds or _SMALL_SECONDS, faults=_QUICK_FAULTS)
    path = _folder(request, tmp_path) / f'seed{seed}.jsonl'
    result = _run(bed, plan, path)
    _record(request, result)
    text = '\n'.join(map(str, result.violations))
    assert not result.violations, f'{path}:\n{text}'


def test_a_planted_fault_is_found(
    bed: tuple[Bed, Marks],
    plant: Plant,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = _folder(request, tmp_path)
    plan = Plan(
        0,
        request.config.getoption('seconds', None) or _SECONDS,
        operations=plant.operations,
        faults=plant.faults,
        patience=30,
    )
    with planted.planted(bed[0], plant):
        for seed in _SEEDS_OF_PLANTS:
            path = folder / f'{plant.name.replace(" ", "-")}{seed}.jsonl'
            plan = dataclasses.replace(plan, seed=seed)
            result = _run(bed, plan, path)
            if result.violations:
                _record(request, result, plant.name)
                return
    pytest.fail(f'nothing was found of: {plant.name}')
