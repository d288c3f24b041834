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
    'galera': '#c44e27',
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
    chosen = [row for row in rows if row['clients'] == 1]
    if name == 'juice':
        _scenarios(figure, chosen)
    elif name == 'revocation':
        _checks(figure.subplots(), chosen)
    else:
        _operations(figure.subplots(), chosen)
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


def _scenarios(figure: Any, rows: Rows) -> None:
    """p50 of each scenario, of all regions, for each round trip."""
    rows = [row for row in rows if ', region ' not in row['operation']]
    trips = sorted({row['size'] for row in rows})
    # Each scenario has a place, and each system a bar there.
    places = {name: n for n, name in enumerate(_in_order(rows, 'operation'))}
    systems = _in_order(rows, 'system')
    height = 0.8 / len(systems)
    panels = figure.subplots(1, len(trips), sharey=True, squeeze=False)[0]
    for axes, trip in zip(panels, trips, strict=True):
        for number, system in enumerate(systems):
            bars = [
                (places[row['operation']] + number * height, row['p50_ms'])
                for row in rows
                if (row['size'], row['system']) == (trip, system)
            ]
            axes.barh(
                [place for place, _ in bars],
                [ms for _, ms in bars],
                height,
                color=_COLOURS[system],
                label=system,
            )
        axes.set(xlabel='ms, p50', title=f'round trip {trip} ms')
    middle = height * (len(systems) - 1) / 2
    panels[0].set_yticks(
        [place + middle for place in places.values()], list(places)
    )
    panels[0].invert_yaxis()
    panels[-1].legend()


def _in_order(rows: Rows, key: str) -> list[Any]:
    """Return what rows have, each once, in the order in which it came."""
    return list(dict.fromkeys(row[key] for row in rows))


def _label(row: Mapping[str, Any], rows: Rows) -> str:
    """Return what names a row: its size only if there are several."""
    sizes = {r['size'] for r in rows if r['operation'] == row['operation']}
    size = f', {row["size"]}' if len(sizes) > 1 else ''
    return f'{row["system"]}: {row["operation"]}{size}'
