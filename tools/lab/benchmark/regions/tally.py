# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of regions has found, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from lab.benchmark.measure import Sample, Series
from lab.benchmark.report import Found, Table, short

#: What a system has to say where it was not measured.
_ABSENT = '-'
_NAMES = {'cassandra': 'Cassandra drivers', 'galera': 'SQL on Galera'}


class Tally:
    """The lines of the table; each has a cell for each system."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._cells: dict[tuple[str, str], dict[str, str]] = {}

    def tell(self, part: str, what: str, system: str, text: str) -> None:
        """Fill a cell.

        :param part: letter of the part of the benchmark.
        """
        self._cells.setdefault((part, what), {})[system] = text

    def keep(
        self, what: str, system: str, seconds: Sequence[float], rtt_ms: int
    ) -> float:
        """Keep times for the rows of JSON; return their median.

        :param seconds: at least one.
        """
        sample = Sample(tuple(seconds), 0.0, 0.0, sum(seconds))
        self._found.measured.add(Series(system, what, rtt_ms), [sample])
        return statistics.median(seconds)

    def table(self, systems: Iterable[str]) -> Table:
        """Return all as a table."""
        names = list(systems)
        lines = [
            (*key, *(cells.get(name, _ABSENT) for name in names))
            for key, cells in self._cells.items()
        ]
        return Table(
            'Three regions',
            ('part', 'what', *(_NAMES.get(name, name) for name in names)),
            lines,
        )


def brief(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds >= 1:
        return f'{short(seconds)} s'
    return f'{short(seconds * 1000)} ms'


def round_trips(
    seconds: Sequence[float], at_once: Sequence[float], rtt_ms: float
) -> str:
    """Return the median of some times, and the round trips in them.

    Those are told by the shortest times: what else the machine does makes
    none shorter, and no round trip is left out.

    :param at_once: seconds that it takes without a delay between regions.
    """
    trips = (min(seconds) - min(at_once)) * 1000 / rtt_ms
    return f'{brief(statistics.median(seconds))}, {max(trips, 0):.1f} RTT'


def span(seconds: Sequence[float]) -> str:
    """Return the median of some times, and the shortest and longest."""
    middle = statistics.median(seconds)
    if len(seconds) == 1:
        return f'{middle:.2f} s'
    return f'{middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})'


def share(good: int, count: int) -> str:
    return f'{good} of {count}'
