# SPDX-License-Identifier: Apache-2.0
"""The pages show what each benchmark has recorded, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab.benchmark import juice, table, waits
from lab.benchmark.waits.operations import OPERATIONS

ADMIN = Path(__file__).resolve().parents[2] / 'doc' / 'source' / 'admin'
INCLUDED = re.compile(r'^\.\. include:: benchmark-(\w+)\.inc$', re.MULTILINE)


def recorded(name: str) -> str:
    return (ADMIN / f'benchmark-{name}.inc').read_text('utf-8')


def lines_of(name: str) -> list[list[str]]:
    """Return the cells of each line of the first table of a page."""
    text = recorded(name).split('.. list-table::')[1]
    return [
        re.findall(r'^ {3}[* ] - (.*)$', line, re.MULTILINE)
        for line in re.split(r'(?=^   \* - )', text, flags=re.MULTILINE)[1:]
    ]


def test_each_benchmark_is_on_one_page() -> None:
    shown = [
        name
        for page in sorted(ADMIN.glob('*.rst'))
        for name in INCLUDED.findall(page.read_text('utf-8'))
    ]
    assert sorted(shown) == sorted(table.BENCHMARKS)


@pytest.mark.parametrize('name', table.BENCHMARKS)
def test_the_plot_of_a_page_lies_beside_it(name: str) -> None:
    named = re.findall(r'^\.\. image:: (\S+)$', recorded(name), re.MULTILINE)
    plot = ADMIN / f'benchmark-{name}.svg'
    assert named == ([plot.name] if plot.exists() else [])


def test_the_table_of_waits_has_each_operation_in_each_state() -> None:
    page = (ADMIN / 'regions.rst').read_text('utf-8')
    assert INCLUDED.findall(page) == ['waits']
    headings, *lines = lines_of('waits')
    assert headings == ['what', 'operation', *waits.STATES]
    assert [tuple(line[:2]) for line in lines] == [
        (each.kind, each.name) for each in OPERATIONS
    ]
    for line in lines:
        # None has the dash of what was not measured.
        assert len(line) == len(headings)
        assert '-' not in line, line
    for state in waits.STATES:
        assert f'*{state.capitalize()}*' in page


def test_the_table_of_scenarios_has_each_at_each_round_trip() -> None:
    _, *lines = lines_of('juice')
    default = table.arguments(['juice']).rtts
    assert {tuple(line[:2]) for line in lines} == {
        (scenario, f'{ms} ms')
        for scenario in juice.SCENARIOS
        for ms in default
    }
    page = (ADMIN / 'benchmark.rst').read_text('utf-8')
    for scenario in juice.SCENARIOS:
        assert f'* ``{scenario}``' in page
