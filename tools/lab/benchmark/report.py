# SPDX-License-Identifier: Apache-2.0
"""What a benchmark hands out: a table, rows of JSON, a page."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.table
from rich.console import Console

from lab.benchmark.measure import Measurements, Series
from lab.benchmark.verdict import MIDDLE, Verdict

#: Keys of a row, in their order; the same for every benchmark.
ROW = (
    'benchmark',
    'system',
    'operation',
    'size',
    'token_age_s',
    'clients',
    'p50_ms',
    'p99_ms',
    'ops_per_s',
    'n',
)
_HEADINGS = (
    'system',
    'operation',
    'size',
    'token age s',
    'clients',
    'p50 ms',
    'p99 ms',
    'ops/s',
    'client CPU ms',
    'n',
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Figures; a line begins with the system and the operation."""

    name: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclasses.dataclass
class Found:
    """All that a benchmark hands out.

    :ivar context: what the figures depend on, by name.
    :ivar tables: what is told beside the figures of time.
    """

    measured: Measurements
    context: dict[str, str]
    verdicts: list[Verdict]
    tables: list[Table]

    def all_tables(self) -> Iterator[Table]:
        """Yield the figures of time, then the other tables."""
        lines = (_cells(series, self.measured) for series in self.measured)
        yield Table('', _HEADINGS, tuple(lines))
        yield from self.tables


def rows(name: str, measured: Measurements) -> list[dict[str, Any]]:
    """Return one row for each series: times in ms, rates in 1/s."""
    return [_row(name, series, measured) for series in measured]


def _row(name: str, series: Series, measured: Measurements) -> dict[str, Any]:
    figures = measured.figures(series)
    values = (
        name,
        *dataclasses.astuple(series),
        round(figures.p50 * 1000, 4),
        round(figures.p99 * 1000, 4),
        round(figures.rate, 3),
        figures.count,
    )
    return dict(zip(ROW, values, strict=True))


def _cells(series: Series, measured: Measurements) -> tuple[str, ...]:
    """Return a line of the table."""
    figures = measured.figures(series)
    return (
        series.system,
        series.operation,
        f'{series.size:,}'.replace(',', ' '),
        str(series.token_age),
        str(series.clients),
        short(figures.p50 * 1000),
        short(figures.p99 * 1000),
        short(figures.rate),
        short(figures.cpu * 1000),
        str(figures.count),
    )


def show(console: Console, found: Found) -> None:
    """Print everything.

    Tables fit into a terminal of 80 columns or more; where there is none, no
    line is folded.
    """
    console.width = max(80, console.width) if console.is_terminal else 1000
    for table in found.all_tables():
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
    lines = [
        '.. Made by tools/benchmark; do not edit.',
        '',
        f'.. image:: benchmark-{name}.svg',
        '   :alt: Time of each operation with one client, p50 and p99',
        '',
        *_list_table(*_by_operation(found.measured)),
    ]
    for table in found.tables:
        lines += ['', f'{table.name}:', '']
        lines += _list_table(table.headings, table.lines)
    lines += ['', *(f':{k}: {value}' for k, value in found.context.items())]
    lines.append('')
    lines += _list_table(
        ('target', 'limit', 'measured', 'verdict'),
        ((v.target, v.limit, v.measured, v.word) for v in found.verdicts),
    )
    return '\n'.join(lines) + '\n'


def _by_operation(
    measured: Measurements,
) -> tuple[list[str], list[list[str]]]:
    """Return one line for each operation, size and number of clients.

    Of tokens of several ages, the one in the middle of its hour.
    """
    chosen = [each for each in measured if each.token_age in (0, MIDDLE)]
    systems = list(dict.fromkeys(each.system for each in chosen))
    lines: dict[tuple[str, int, int], dict[str, str]] = {}
    for each in chosen:
        figures = measured.figures(each)
        key = (each.operation, each.size, each.clients)
        lines.setdefault(key, {})[each.system] = (
            f'{short(figures.p50 * 1000)} / {short(figures.p99 * 1000)},'
            f' {short(figures.rate)}'
        )
    headings = [
        'operation',
        'size',
        'clients',
        *(f'{system}: p50 / p99 ms, ops/s' for system in systems),
    ]
    return headings, [
        [
            operation,
            f'{size:,}'.replace(',', ' '),
            str(clients),
            *(found.get(system, '') for system in systems),
        ]
        for (operation, size, clients), found in lines.items()
    ]


def _list_table(
    headings: Sequence[str], body: Iterable[Sequence[str]]
) -> list[str]:
    """Return a table for the documentation."""
    lines = ['.. list-table::', '   :header-rows: 1', '']
    for line in (headings, *body):
        lines += [
            f'   {"*" if number == 0 else " "} - {cell}'
            for number, cell in enumerate(line)
        ]
    return lines


def write_json(path: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows: a JSON array with one row in each line."""
    body = ',\n'.join(json.dumps(row) for row in found)
    replace(path, f'[\n{body}\n]\n')


def write_context(path: str, found: Found) -> None:
    """Write what does not fit the rows' form beside them."""
    measured = found.measured
    names = ROW[1 : 1 + len(dataclasses.fields(Series))]
    document = {
        'context': found.context,
        'client_cpu': [
            {
                **dict(zip(names, dataclasses.astuple(series), strict=True)),
                'client_cpu_ms': round(measured.figures(series).cpu * 1000, 4),
            }
            for series in measured
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
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, 'w', encoding='utf-8') as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def short(value: float) -> str:
    """Return about three digits of a number."""
    if value >= 100:
        return f'{value:.0f}'
    if value >= 10:
        return f'{value:.1f}'
    return f'{value:.2f}' if value >= 0.1 else f'{value:.3f}'
