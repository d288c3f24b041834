# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of Juice's scenarios tells of what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.benchmark import juice, plot, report, table
from lab.benchmark.juice import SCENARIOS, Times
from lab.benchmark.measure import Measurements

FIRST, SECOND = list(SCENARIOS)[:2]
OURS = Times([[0.02, 0.03, 0.04], [0.05], [0.01]])
THEIRS = Times([[0.06], [0.3], []], 2)
FOUND = {
    (FIRST, 0): {'cassandra': OURS, 'galera': OURS},
    (SECOND, 300): {'cassandra': OURS, 'galera': THEIRS},
}


def test_there_are_seven_scenarios_at_three_round_trips() -> None:
    assert len(SCENARIOS) == 7
    assert table.arguments(['juice']).rtts == (0, 100, 300)


def test_a_line_has_medians_maxima_ratio_and_errors() -> None:
    found = juice.table(FOUND, ['cassandra', 'galera'])
    lines = [dict(zip(found.headings, line, strict=True)) for line in found[2]]
    assert lines[0] == {
        'scenario': FIRST,
        'round trip': '0 ms',
        'Cassandra drivers: 1 / 2 / 3': '30.0 / 50.0 / 10.0',
        'SQL on Galera: 1 / 2 / 3': '30.0 / 50.0 / 10.0',
        'max': '50.0',
        'ratio of medians': '1.00',
        'errors': '0 / 0',
    }
    assert found.lines[1] == (
        *(SECOND, '300 ms', '30.0 / 50.0 / 10.0', '50.0'),
        # What failed has no time.
        *('60.0 / 300 / -', '300', '0.17', '0 / 2'),
    )


def test_without_galera_there_is_no_ratio() -> None:
    found = juice.table({(FIRST, 0): {'cassandra': OURS}}, ['cassandra'])
    assert found.lines == [
        (FIRST, '0 ms', '30.0 / 50.0 / 10.0', '50.0', '-', '0')
    ]
    assert juice.ratio({'cassandra': OURS, 'galera': Times([[]], 1)}) == '-'


def test_rows_are_of_all_regions_and_of_each() -> None:
    measured = Measurements()
    juice.keep(measured, FOUND)
    rows = {
        (row['system'], row['operation'], row['size']): (
            row['p50_ms'],
            row['n'],
        )
        for row in report.rows('juice', measured)
    }
    assert rows['cassandra', FIRST, 0] == (30.0, 5)
    assert rows['galera', SECOND, 300] == (60.0, 2)
    assert rows['galera', f'{SECOND}, region 2', 300] == (300.0, 1)
    assert ('galera', f'{SECOND}, region 3', 300) not in rows


def test_the_plot_has_a_panel_for_each_round_trip(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason='part of the extra "lab"')
    measured = Measurements()
    juice.keep(measured, FOUND)
    path = tmp_path / 'juice.svg'
    plot.draw('juice', report.rows('juice', measured), str(path))
    text = path.read_text()
    for words in FIRST, SECOND, 'round trip 0 ms', 'round trip 300 ms':
        assert f'<!-- {words} -->' in text
    assert 'region 1' not in text


def test_the_page_shows_a_plot_of_what_is_no_table() -> None:
    found = report.Found(shown=False, drawn='each scenario')
    assert report.page('juice', found).splitlines()[2:4] == [
        '.. image:: benchmark-juice.svg',
        '   :alt: each scenario',
    ]
