# SPDX-License-Identifier: Apache-2.0
"""Drawings of the measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.benchmark import verdict

Rows = Sequence[Mapping[str, Any]]

_COLOURS = {
    'cassandra': '#1b6ca8',
    'sql': '#c44e27',
    'fernet': '#6b8e23',
    'bare': '#777777',  # What happened meanwhile.
    'before': '#4c72b0',
    'hung': '#c44e52',
    'down': '#dd8452',
    'after': '#55a868',
    'idle': '#55a868',
    'busy': '#c44e52',
}


def draw(name: str, rows: Rows, path: str) -> None:
    """Draw the rows of a benchmark; the path's ending is the format."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same rows make the same file.
    matplotlib.rcParams['svg.hashsalt'] = name
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    chosen = [row for row in rows if row['clients'] == 1]
    (_checks if name == 'revocation' else _operations)(axes, chosen)
    figure.savefig(path, metadata={'Date': None})


def _checks(axes: Any, rows: Rows) -> None:
    """p50 and p99 of a check over the number of live revocations."""
    for system, operation in (
        ('sql', 'check'),
        ('cassandra', 'check'),
        ('bare', 'read nine subjects'),
    ):
        line = sorted(
            (row['size'], row['p50_ms'], row['p99_ms'])
            for row in rows
            if (row['system'], row['operation']) == (system, operation)
            and row['token_age_s'] == verdict.MIDDLE
        )
        if line:
            sizes, p50, p99 = zip(*line, strict=True)
            style = {'color': _COLOURS[system]}
            axes.plot(sizes, p50, 'o-', label=f'{system}, p50', **style)
            axes.plot(sizes, p99, '.:', label=f'{system}, p99', **style)
    axes.set(
        xscale='log',
        yscale='log',
        xlabel='live revocations',
        ylabel='ms',
        title='Revocation check of a token in the middle of its hour',
    )
    axes.grid(True, which='major', alpha=0.3)
    axes.legend()


def _operations(axes: Any, rows: Rows) -> None:
    """p50 of each operation, p99 as a whisker."""
    axes.barh(
        [_label(row, rows) for row in rows],
        [row['p50_ms'] for row in rows],
        xerr=[[0] * len(rows), [r['p99_ms'] - r['p50_ms'] for r in rows]],
        color=[_COLOURS[row['system']] for row in rows],
    )
    axes.invert_yaxis()
    axes.set(xscale='log', xlabel='ms, p50; line to p99')


def _label(row: Mapping[str, Any], rows: Rows) -> str:
    """Return what names a row: its size only if there are several."""
    sizes = {r['size'] for r in rows if r['operation'] == row['operation']}
    size = f', {row["size"]}' if len(sizes) > 1 else ''
    return f'{row["system"]}: {row["operation"]}{size}'
