# SPDX-License-Identifier: Apache-2.0
"""What a benchmark hands out: a table, rows of JSON, a page, a drawing."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lab.benchmark.measure import Measurements, Series
from lab.benchmark.verdict import Verdict

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

Context = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Table:
    """What is told beside the figures of time.

    :ivar lines: begin with the system and the operation.
    """

    name: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


class Found(NamedTuple):
    """All that a benchmark hands out."""

    measured: Measurements
    context: dict[str, str]
    verdicts: list[Verdict]
    tables: Sequence[Table] = ()


def rows(name: str, measured: Measurements) -> list[dict[str, Any]]:
    """Return one row for each series: times in ms, rates in 1/s."""
    return [_row(name, series, measured) for series in measured]


def _row(name: str, series: Series, measured: Measurements) -> dict[str, Any]:
    figures = measured.figures(series)
    values = (
        name,
        series.system,
        series.operation,
        series.size,
        series.token_age,
        series.clients,
        round(figures.p50 * 1000, 4),
        round(figures.p99 * 1000, 4),
        round(figures.rate, 3),
        figures.count,
    )
    return dict(zip(ROW, values, strict=True))


def cells(measured: Measurements) -> list[tuple[str, ...]]:
    """Return the table's lines, without its headings."""
    lines = []
    for series in measured:
        figures = measured.figures(series)
        lines.append(
            (
                series.system,
                series.operation,
                f'{series.size:,}'.replace(',', ' '),
                str(series.token_age),
                str(series.clients),
                _short(figures.p50 * 1000),
                _short(figures.p99 * 1000),
                _short(figures.rate),
                _short(figures.cpu * 1000),
                str(figures.count),
            )
        )
    return lines


def text(
    measured: Measurements,
    context: Context,
    verdicts: Iterable[Verdict],
    tables: Sequence[Table] = (),
) -> str:
    """Return what is printed."""
    lines = _aligned(_HEADINGS, cells(measured))
    for table in tables:
        lines += ['', f'{table.name}:']
        lines += _aligned(table.headings, table.lines)
    lines += ['', *(f'{name}: {value}' for name, value in context.items())]
    lines += ['', 'Targets:', *(f'  {verdict}' for verdict in verdicts)]
    return '\n'.join(lines) + '\n'


def _aligned(
    headings: tuple[str, ...], body: Iterable[tuple[str, ...]]
) -> list[str]:
    """Return a table for a terminal."""
    table = [headings, *body]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        '  '.join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(
                zip(line, widths, strict=True)
            )
        ).rstrip()
        for line in table
    ]
    lines.insert(1, '-' * (sum(widths) + 2 * len(widths) - 2))
    return lines


def page(
    measured: Measurements,
    context: Context,
    verdicts: Iterable[Verdict],
    tables: Sequence[Table] = (),
) -> str:
    """Return the same for the documentation, as reStructuredText."""
    lines = ['.. Made by tools/benchmark; do not edit.', '']
    lines += _list_table(_HEADINGS, cells(measured))
    for table in tables:
        lines += ['', f'{table.name}:', '']
        lines += _list_table(table.headings, table.lines)
    lines += ['', *(f':{name}: {value}' for name, value in context.items())]
    lines.append('')
    lines += _list_table(
        ('target', 'limit', 'measured', 'verdict'),
        ((v.target, v.limit, v.measured, v.word) for v in verdicts),
    )
    return '\n'.join(lines) + '\n'


def _list_table(
    headings: tuple[str, ...], body: Iterable[tuple[str, ...]]
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
    _replace(path, f'[\n{body}\n]\n')


def write_context(
    path: str,
    measured: Measurements,
    context: Context,
    verdicts: Iterable[Verdict],
    tables: Iterable[Table] = (),
) -> None:
    """Write what does not fit the rows' form beside them."""
    cpu = [
        {
            'system': series.system,
            'operation': series.operation,
            'size': series.size,
            'token_age_s': series.token_age,
            'clients': series.clients,
            'client_cpu_ms': round(measured.figures(series).cpu * 1000, 4),
        }
        for series in measured
    ]
    targets = [
        {
            'target': verdict.target,
            'limit': verdict.limit,
            'measured': verdict.measured,
            'met': verdict.met,
        }
        for verdict in verdicts
    ]
    document = {
        'context': context,
        'client_cpu': cpu,
        'targets': targets,
        'tables': {
            table.name: [
                dict(zip(table.headings, line, strict=True))
                for line in table.lines
            ]
            for table in tables
        },
    }
    _replace(path, json.dumps(document, indent=1) + '\n')


def context_path(path: str) -> str:
    """Return where the context of the rows in ``path`` goes."""
    return os.path.splitext(path)[0] + '.context.json'


def write_page(path: str, content: str) -> None:
    """Write what :func:`page` returned."""
    _replace(path, content)


def _replace(path: str, content: str) -> None:
    """Write a file as a whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, 'w') as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _short(value: float) -> str:
    """Return about three digits of a number."""
    if value >= 100:
        return f'{value:.0f}'
    if value >= 10:
        return f'{value:.1f}'
    return f'{value:.2f}' if value >= 0.1 else f'{value:.3f}'
