# SPDX-License-Identifier: Apache-2.0
"""What a benchmark hands out: a table, rows of JSON, a page."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rich.box
import rich.table
from rich.console import Console

from lab.benchmark.measure import Figures, Measurements, Series
from lab.benchmark.verdict import MIDDLE, Verdict

#: Keys of a row, in their order; the same for every benchmark.
ROW = (
    *('benchmark', 'system', 'operation', 'size', 'token_age_s', 'clients'),
    *('p50_ms', 'p99_ms', 'ops_per_s', 'n'),
)
_HEADINGS = (
    *('system', 'operation', 'size', 'token age s', 'clients'),
    *('p50 ms', 'p99 ms', 'ops/s', 'client CPU ms', 'n'),
)


class Table(NamedTuple):
    """Figures; a line begins with the system and the operation."""

    name: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclasses.dataclass
class Found:
    """All that a benchmark hands out."""

    measured: Measurements = dataclasses.field(default_factory=Measurements)
    #: What the figures depend on, by name.
    context: dict[str, str] = dataclasses.field(default_factory=dict)
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    #: What is told beside the figures of time.
    tables: list[Table] = dataclasses.field(default_factory=list)
    #: Whether the times that were measured are a table by themselves;
    #: else ``tables`` have them.
    shown: bool = True
    #: What a plot shows, in words, where the times are no table.
    drawn: str = ''


def rows(name: str, measured: Measurements) -> list[dict[str, Any]]:
    """Return one row for each series: times in ms, rates in 1/s."""
    found = []
    for series, figures in measured.all_figures():
        times = (round(x * 1000, 4) for x in (figures.p50, figures.p99))
        rate = round(figures.rate, 3)
        values = (name, *series, *times, rate, figures.count)
        found.append(dict(zip(ROW, values, strict=True)))
    return found


def _line(series: Series, figures: Figures) -> list[str]:
    """Return a line of the table."""
    return [
        series.system,
        series.operation,
        _grouped(series.size),
        str(series.token_age),
        str(series.clients),
        short(figures.p50 * 1000),
        short(figures.p99 * 1000),
        short(figures.rate),
        short(figures.cpu * 1000),
        str(figures.count),
    ]


def show(console: Console, found: Found) -> None:
    """Print everything.

    Tables fit into a terminal of 80 columns or more; where there is none, no
    line is folded.
    """
    console.width = max(80, console.width) if console.is_terminal else 1000
    lines = [_line(*each) for each in found.measured.all_figures()]
    times = [Table('', _HEADINGS, lines)] if found.shown else []
    for table in (*times, *found.tables):
        if table.name:
            _say(console, f'\n{table.name}:')
        shown = rich.table.Table(
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
            pad_edge=False,
        )
        columns = zip(table.headings, *table.lines, strict=True)
        for number, (heading, *cells) in enumerate(columns):
            # Headings may be folded, and of the cells operations alone.
            words = max(map(len, (*heading.split(), *cells)))
            is_free = number == 1 or not console.is_terminal
            shown.add_column(
                heading,
                justify='left' if number < 2 else 'right',
                width=None if is_free else words,
                overflow='fold',
            )
        for line in table.lines:
            shown.add_row(*line)
        console.print(shown, markup=False, highlight=False)
    _say(console, '')
    for name, value in found.context.items():
        _say(console, f'{name}: {value}')
    if found.verdicts:
        _say(console, '\nTargets:')
    for verdict in found.verdicts:
        missed = verdict.met is False
        _say(console, f'  {verdict}', style='bold red' if missed else '')


def _say(console: Console, text: str, style: str = '') -> None:
    console.print(
        text, style=style, soft_wrap=True, markup=False, highlight=False
    )


def page(name: str, found: Found) -> str:
    """Return what the documentation shows, as reStructuredText.

    :param name: of the benchmark; its plot lies beside the page.
    """
    verdicts = [
        (v.target, v.limit, v.measured, v.word) for v in found.verdicts
    ]
    targets = Table('', ('target', 'limit', 'measured', 'verdict'), verdicts)
    lines = ['.. Made by tools/benchmark; do not edit.', '']
    drawn = found.drawn
    if found.shown:
        drawn = 'Time of each operation with one client, p50 and p99'
    if drawn:
        image = f'.. image:: benchmark-{name}.svg'
        lines += [image, f'   :alt: {drawn}', '']
    if found.shown:
        lines += _list_table(_by_operation(found.measured))
    for table in found.tables:
        lines += _list_table(table)
    lines += [f':{key}: {value}' for key, value in found.context.items()]
    end = _list_table(targets) if verdicts else []
    return '\n'.join([*lines, '', *end])


def _by_operation(measured: Measurements) -> Table:
    """Return one line for each operation, size and number of clients.

    Of tokens of several ages, the one in the middle of its hour.
    """
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    systems: dict[str, None] = {}  # in order
    for series, figures in measured.all_figures():
        if series.token_age in (0, MIDDLE):
            systems[series.system] = None
            key = series.operation, _grouped(series.size), str(series.clients)
            p50, p99 = (short(x * 1000) for x in (figures.p50, figures.p99))
            cells.setdefault(key, {})[series.system] = (
                f'{p50} / {p99}, {short(figures.rate)}'
            )
    columns = (f'{system}: p50 / p99 ms, ops/s' for system in systems)
    lines = [
        (*key, *(found.get(system, '') for system in systems))
        for key, found in cells.items()
    ]
    return Table('', ('operation', 'size', 'clients', *columns), lines)


def _list_table(table: Table) -> list[str]:
    """Return a table for the documentation, under its name."""
    lines = [f'{table.name}:', ''] if table.name else []
    lines += ['.. list-table::', '   :header-rows: 1', '']
    for first, *others in (table.headings, *table.lines):
        lines += [f'   * - {first}', *(f'     - {cell}' for cell in others)]
    return [*lines, '']


def write_json(path: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows: a JSON array with one row in each line."""
    body = ',\n'.join(json.dumps(row) for row in found)
    replace(path, f'[\n{body}\n]\n')


def write_context(path: str, found: Found) -> None:
    """Write what does not fit the rows' form beside them."""
    document = {
        'context': found.context,
        'client_cpu': [
            {
                **dict(zip(ROW[1:], series, strict=False)),
                'client_cpu_ms': round(figures.cpu * 1000, 4),
            }
            for series, figures in found.measured.all_figures()
        ],
        'targets': [dataclasses.asdict(each) for each in found.verdicts],
        'tables': {
            table.name: [
                dict(zip(table.headings, line, strict=True))
                for line in table.lines
            ]
            for table in found.tables
        },
    }
    replace(path, json.dumps(document, indent=1) + '\n')


def context_path(path: str) -> str:
    """Return where the context of the rows in ``path`` goes."""
    return os.path.splitext(path)[0] + '.context.json'


def replace(path: str, content: str) -> None:
    """Write a file as a whole or not at all."""
    temporary = Path(f'{path}.{os.getpid()}')
    try:
        temporary.write_text(content, 'utf-8')
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _grouped(value: int) -> str:
    """Return a number with a space before each thousand."""
    return f'{value:,}'.replace(',', ' ')


def short(value: float) -> str:
    """Return about three digits of a number."""
    if value >= 100:
        return f'{value:.0f}'
    if value >= 10:
        return f'{value:.1f}'
    return f'{value:.2f}' if value >= 0.1 else f'{value:.3f}'
