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
}


def draw(name: str, rows: Rows, path: str) -> None:
    """Draw the rows of a benchmark; the path's ending is the format."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    # The same rows make the same file.
    matplotlib.rcParams['svg.hashsalt'] = name
    figure, axes = pyplot.subplots(figsize=(8, 5), layout='constrained')
    if name == 'revocation':
        _checks(axes, rows)
    else:
        _operations(axes, rows)
    figure.savefig(path, metadata={'Date': None})
    pyplot.close(figure)


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
            if row['system'] == system
            and row['operation'] == operation
            and row['token_age_s'] == verdict.MIDDLE
            and row['clients'] == 1
        )
        if line:
            sizes, middle, high = zip(*line, strict=True)
            colour = _COLOURS[system]
            axes.plot(
                sizes, middle, 'o-', color=colour, label=f'{system}, p50'
            )
            axes.plot(sizes, high, '.:', color=colour, label=f'{system}, p99')
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
    """p50 of each operation with one client, p99 as a whisker."""
    chosen = [row for row in rows if row['clients'] == 1]
    labels = [_label(row, chosen) for row in chosen]
    middle = [row['p50_ms'] for row in chosen]
    above = [row['p99_ms'] - row['p50_ms'] for row in chosen]
    axes.barh(
        labels,
        middle,
        xerr=[[0] * len(above), above],
        color=[_COLOURS[row['system']] for row in chosen],
    )
    axes.invert_yaxis()
    axes.set(xscale='log', xlabel='ms, p50; line to p99')


def _label(row: Mapping[str, Any], rows: Rows) -> str:
    """Return what names a row: its size only if there are several."""
    sizes = {
        other['size']
        for other in rows
        if other['operation'] == row['operation']
    }
    size = f', {row["size"]}' if len(sizes) > 1 else ''
    return f'{row["system"]}: {row["operation"]}{size}'
