# SPDX-License-Identifier: Apache-2.0
"""The histories of a record, for the manual.

``python -m tests.regions.table RECORD`` writes the table of the page on tests.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.regions.run import Result

ROOT = Path(__file__).parents[2]
INCLUDED = ROOT / 'doc/source/contributor/histories.inc'


def line(result: Result, plant: str = '') -> str:
    """Return what a record keeps of a history.

    :param plant: the fault that was planted.
    """
    history = result.history
    outcomes = Counter(each.outcome for each in history.operations)
    return json.dumps(
        {
            **history.run,
            'plant': plant,
            'outcomes': outcomes,
            'faults': Counter(each.kind for each in history.faults),
            'rounds': result.rounds,
            'took': round(result.seconds),
            'violations': Counter(x.promise for x in result.violations),
        }
    )


def _rows(title: str, rows: list[list[str]], widths: str) -> Iterator[str]:
    yield f'.. list-table:: {title}'
    yield '   :header-rows: 1'
    yield f'   :widths: {widths}'
    yield ''
    for row in rows:
        first, *rest = row
        yield f'   * - {first}'
        yield from (f'     - {each}' for each in rest)
    yield ''


def _counted(found: dict[str, int]) -> str:
    return ', '.join(
        name if number == 1 else f'{name} ({number})'
        for name, number in sorted(found.items())
    )


def text(records: list[dict[str, Any]]) -> str:
    """Return the tables."""
    runs = {
        (each['seed'], *each['regions']): each
        for each in records
        if not each['plant']
    }
    rows = [
        [
            *('Seed', 'Nodes of the regions', 'Operations'),
            *('Acknowledged', 'Unknown', 'Faults', 'Violations'),
        ]
    ]
    for _, each in sorted(runs.items()):
        outcomes = each['outcomes']
        rows.append(
            [
                str(each['seed']),
                ', '.join(map(str, each['regions'])),
                str(sum(outcomes.values())),
                str(outcomes.get('ok', 0)),
                str(outcomes.get('unknown', 0)),
                _counted(each['faults']) or 'none',
                str(sum(each['violations'].values())),
            ]
        )
    planted = {each['plant']: each for each in records if each['plant']}
    found = [['Planted', 'Seed', 'Found by']]
    found += [
        [name, str(each['seed']), _kinds(each['violations'])]
        for name, each in planted.items()
    ]
    return '\n'.join(
        [
            '.. Written by ``python -m tests.regions.table``; do not change'
            ' it here.',
            '',
            *_rows('Histories', rows, '6 10 12 14 10 38 10'),
            *_rows('Planted faults', found, '30 10 60'),
        ]
    )


def _kinds(violations: dict[str, int]) -> str:
    """Return promises without the names that are in them."""
    kinds: Counter[str] = Counter()
    for promise, number in violations.items():
        words = promise.split()
        named = words[0][0] in 'ECShT' and any(map(str.isdigit, words[0]))
        kinds['it ' + ' '.join(words[1:]) if named else promise] += number
    return _counted(kinds)


def main(paths: list[str]) -> int:
    records = [
        json.loads(each)
        for path in paths
        for each in Path(path).read_text().splitlines()
    ]
    INCLUDED.write_text(text(records))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
