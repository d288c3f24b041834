# SPDX-License-Identifier: Apache-2.0
"""What a benchmark writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from docutils.core import publish_doctree
from lab.benchmark import plot, report
from lab.benchmark.measure import Measurements, Sample, Series
from lab.benchmark.verdict import Verdict
from rich.console import Console

VERDICTS = [
    Verdict('good', '1 x', '0.5 x', True),
    Verdict('bad', '1 x', '2 x', False),
    Verdict('absent', '1 x', 'not measured in this run', None),
]
CONTEXT = {'Machine': 'one', 'Node': 'two'}
TABLES = [
    report.Table(
        'Round trips',
        ('system', 'operation', 'statements'),
        (('cassandra', 'check', '3'), ('sql', 'check', '17')),
    )
]


@pytest.fixture
def measured() -> Measurements:
    found = Measurements()
    for system, scale in (('cassandra', 1), ('sql', 100)):
        for size in (10, 1_000_000):
            found.add(
                Series(system, 'check', size, 1800),
                [Sample((0.001 * scale, 0.002 * scale), 0.001, 0.0, 0.5)],
            )
    return found


def found_by(
    measured: Measurements, tables: list[report.Table] | None = None
) -> report.Found:
    return report.Found(measured, CONTEXT, VERDICTS, tables or [])


def shown(found: report.Found, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), **options)
    report.show(console, found)
    return console.file.getvalue().splitlines()


def test_rows_have_the_agreed_keys_and_units(measured: Measurements) -> None:
    rows = report.rows('revocation', measured)
    assert len(rows) == 4
    assert rows[0] == {
        'benchmark': 'revocation',
        'system': 'cassandra',
        'operation': 'check',
        'size': 10,
        'token_age_s': 1800,
        'clients': 1,
        'p50_ms': 1.0,
        'p99_ms': 2.0,
        'ops_per_s': 4.0,
        'n': 2,
    }
    assert list(rows[0]) == list(report.ROW)


def test_json_is_an_array_with_a_row_in_each_line(
    measured: Measurements, tmp_path: Path
) -> None:
    rows = report.rows('revocation', measured)
    path = tmp_path / 'rows.json'
    report.write_json(str(path), rows)
    text = path.read_text()
    assert json.loads(text) == rows
    assert len(text.splitlines()) == len(rows) + 2


def test_context_stands_beside_the_rows(
    measured: Measurements, tmp_path: Path
) -> None:
    path = report.context_path(str(tmp_path / 'rows.json'))
    assert path == str(tmp_path / 'rows.context.json')
    report.write_context(path, found_by(measured))
    found = json.loads(Path(path).read_text())
    assert found['context'] == CONTEXT
    assert found['client_cpu'][0]['client_cpu_ms'] == 0.5
    assert [t['met'] for t in found['targets']] == [True, False, None]


def test_a_file_is_replaced_only_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / 'rows.json'
    path.write_text('old')
    with pytest.raises(TypeError):
        report.write_json(str(path), [{'p50_ms': object()}])
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_text_names_all_that_was_measured(measured: Measurements) -> None:
    lines = shown(found_by(measured))
    assert lines[0].split()[:3] == ['system', 'operation', 'size']
    assert lines[2].split() == (
        [
            'cassandra',
            'check',
            '10',
            '1800',
            '1',
            '1.00',
            '2.00',
            '4.00',
            '0.50',
            '2',
        ]
    )
    assert len({len(line) for line in lines[2:6]}) == 1
    assert 'Machine: one' in lines
    assert '  MISSED        bad: 2 x (limit 1 x)' in lines


def test_a_narrow_terminal_cuts_no_figure(
    measured: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = shown(found_by(measured))
    for columns in (80, 30):
        monkeypatch.setenv('COLUMNS', str(columns))
        # Where nobody looks on, the width of a terminal means nothing.
        assert shown(found_by(measured)) == wide
        narrow = shown(
            found_by(measured), force_terminal=True, color_system=None
        )
        assert len(narrow[0]) <= 80 < len(wide[0])
        figures = [line.split()[2:] for line in wide if '1800' in line]
        assert figures == [
            line.split()[2:] for line in narrow if '1800' in line
        ]
        assert len(figures) == 4


def test_page_is_valid_and_complete(measured: Measurements) -> None:
    page = report.page('token', found_by(measured))
    tree = publish_doctree(
        page, settings_overrides={'halt_level': 2, 'report_level': 2}
    )
    table, targets = list(tree.findall(lambda node: node.tagname == 'table'))
    rows = list(table.findall(lambda node: node.tagname == 'row'))
    # One line for each size, with a column for each system.
    assert len(rows) == 1 + 2
    assert '1 000 000' in table.astext()
    assert 'sql: p50 / p99 ms' in rows[0].astext()
    assert 'MISSED' in targets.astext()


def test_another_table_is_in_all_that_is_written(
    measured: Measurements, tmp_path: Path
) -> None:
    found = found_by(measured, TABLES)
    lines = shown(found)
    first = lines.index('Round trips:')
    assert lines[first + 4].split() == ['sql', 'check', '17']
    tree = publish_doctree(
        report.page('token', found),
        settings_overrides={'halt_level': 2, 'report_level': 2},
    )
    tables = list(tree.findall(lambda node: node.tagname == 'table'))
    assert len(tables) == 3
    assert '17' in tables[1].astext()
    path = tmp_path / 'rows.context.json'
    report.write_context(str(path), found)
    assert json.loads(path.read_text())['tables']['Round trips'][1] == {
        'system': 'sql',
        'operation': 'check',
        'statements': '17',
    }


def test_a_drawing_tells_sizes_apart_where_there_are_several() -> None:
    rows = [
        {'system': 'sql', 'operation': operation, 'size': size}
        for operation, size in (('check', 1), ('check', 2), ('issue', 1))
    ]
    assert [plot._label(row, rows) for row in rows] == [
        'sql: check, 1',
        'sql: check, 2',
        'sql: issue',
    ]


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        (5912.3, '5912'),
        (47.04, '47.0'),
        (1.234, '1.23'),
        (0.1, '0.10'),
        (0.0456, '0.046'),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert report.short(value) == shown
