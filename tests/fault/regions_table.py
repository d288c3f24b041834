# SPDX-License-Identifier: Apache-2.0
"""Write for the page on deviations what wins between two regions.

``python -m tests.fault.regions_table [WORLDS]`` does all pairs, or those of
some worlds, and writes the file that the page includes; what it says of other
worlds stays.  It prints what is wrong, as in ``known_between_regions.txt``.
"""

from __future__ import annotations

import collections
import contextlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.fault import between_regions, two_regions
from tests.fault.between_regions import Bench
from tests.fault.generated import DONE, UNAVAILABLE, World
from tests.fault.region_cases import BOTH, ONE_IS_LOST, Outcome
from tests.fault.two_regions import START

PAGE = Path(__file__).parents[2] / 'doc/source/admin/between-regions.inc'
BEGINS = """\
.. Written by ``python -m tests.fault.regions_table``; do not change it here.
"""
LATER, LOST = 'later', 'lost'
#: Marks a call that the regions had agreed on before they were cut off.
AGREED = '†'


def section(
    bench: Bench, world: type[World], outcomes: Sequence[Outcome]
) -> str:
    """Return what the page says of a world."""
    lines = [*_alone(bench, world), *_beside(outcomes)]
    return '\n'.join(
        [
            _heading(world),
            *_indented(inspect.getdoc(world) or '', '    '),
            '',
            *_wrapped(lines or ['All of them commute, or are refused.']),
            '',
        ]
    )


def _heading(world: type[World]) -> str:
    name = world.__name__
    return re.sub('(?<=[a-z])[A-Z]', lambda it: f' {it[0].lower()}', name)


def _written() -> dict[str, str]:
    """Return what the page says now, by heading."""
    _, *sections = re.split(r'\n\n(?=\S)', PAGE.read_text())
    return {each.partition('\n')[0]: f'{each.strip()}\n' for each in sections}


def _alone(bench: Bench, world: type[World]) -> list[str]:
    said = bench.alone_cut_off(world)
    wide = [name for name, each in said.items() if each in UNAVAILABLE]
    if len(wide) == len(said):
        return ['All calls need both regions.']
    return [f'Need both regions: {_listed(wide)}.'] if wide else []


def _beside(outcomes: Iterable[Outcome]) -> list[str]:
    """Return what is to say of pairs, but for those that commute."""
    found: dict[tuple[str, ...], set[str]] = collections.defaultdict(set)
    for outcome in outcomes:
        if {*outcome.said} == {DONE}:
            names = _names(outcome)
            found[tuple(sorted(names))].add(_won(outcome, names))
    losers = collections.defaultdict(list)
    pairs = collections.defaultdict(list)
    for names, winners in sorted(found.items()):
        if winners == {BOTH}:
            continue
        if len(winners) == 1 and (winner := min(winners)) in names:
            (loser,) = [each for each in names if each != winner] or [winner]
            losers[winner].append(loser)
        elif LOST in winners:
            pairs[LOST].append(names)
        else:
            pairs[LATER].append(names)
    lines = [
        f'{_title(winner)} wins over {_listed(of)}.'
        for winner, of in losers.items()
    ]
    if pairs[LATER]:
        each = '; '.join(_listed(names) for names in pairs[LATER])
        lines.append(f'The later one stays of {each}.')
    if pairs[LOST]:
        each = '; '.join(_listed(names) for names in pairs[LOST])
        lines.append(f'Neither order gives what these can leave: {each}.')
    return lines


def _names(outcome: Outcome) -> list[str]:
    return [
        operation.name + (AGREED if point != START else '')
        for operation, point in zip(
            outcome.case.operations, outcome.case.begun, strict=True
        )
    ]


def _won(outcome: Outcome, names: list[str]) -> str:
    if {*outcome.wrong} - {ONE_IS_LOST}:
        return LOST
    calls = [each.name for each in outcome.case.operations]
    if outcome.wins not in calls:
        return outcome.wins
    return names[calls.index(outcome.wins)]


def _title(name: str) -> str:
    agreed = AGREED if name.endswith(AGREED) else ''
    return f'*{name.removesuffix(AGREED).replace("_", " ")}*{agreed}'


def _listed(names: Iterable[str]) -> str:
    *most, last = [_title(name) for name in names]
    return f'{", ".join(most)} and {last}' if most else last


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in _indented(line, '    * ')]


def _indented(text: str, begins: str) -> list[str]:
    return textwrap.wrap(
        ' '.join(text.split()),
        79,
        initial_indent=begins,
        subsequent_indent=' ' * len(begins),
        break_on_hyphens=False,
    )


def main(names: Sequence[str]) -> int:
    worlds = between_regions.worlds()
    chosen = [each for each in worlds if each.__name__ in names or not names]
    unknown = {*names} - {each.__name__ for each in chosen}
    if unknown:
        print(f'no such worlds: {", ".join(sorted(unknown))}', file=sys.stderr)
        return 2
    sections = _written()
    with (
        two_regions.started() as regions,
        contextlib.closing(Bench(regions)) as bench,
    ):
        for world in chosen:
            outcomes = list(bench.run(bench.cases(world)))
            sections[_heading(world)] = section(bench, world, outcomes)
            print(f'{world.__name__}: {len(outcomes)} cases', file=sys.stderr)
            lines = {line for each in outcomes for line in each.lines}
            for line in sorted(lines):
                print(line, flush=True)
    headings = [_heading(each) for each in worlds]
    text = [sections[each] for each in headings if each in sections]
    PAGE.write_text('\n'.join([BEGINS, *text]))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
