# SPDX-License-Identifier: Apache-2.0
"""When an operation of one region counts in another one.

What is promised depends on what went wrong meanwhile.  While nothing does, a
change counts elsewhere after ``bound`` (a round trip and a second, the page on
configuration, *What other regions change*), and what a busy machine may add.
That round trips are long, or clocks wrong, changes nothing of it (ADR 0014).
After any other fault a change counts once the regions have settled: what each
node wrote last is readable everywhere, so all that it had sent before is, too,
as hints are sent in order.  What a node that was killed had not sent comes
with a repair (the page on operations).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from typing import Any

from tests.regions.history import NEVER, OK, UNKNOWN, Fault, History, Operation

#: Seconds for which a server can still be at work on a request that its
#: client has given up: ``request_deadline``, and the same for what is undone.
AT_WORK = 10.0
#: What loses what a node has not sent yet.
LOSES = {'kill node', 'restart nodes'}


class Timeline:
    """When what counts, in a history."""

    def __init__(self, history: History) -> None:
        self._faults = history.faults
        self._settled = sorted(history.settled, key=lambda x: x.begin)
        self._disturbed = _merged(
            (begin, self._settled_after(end))
            for each in self._faults
            for begin, end in _disturbs(each)
        )
        self._begins = [begin for begin, _ in self._disturbed]
        self.last_round = history.last_round
        self._arrivals: dict[tuple[int, bool], float] = {}
        self.bound: float = history.run['bound'] + self._slowest(history)

    def _slowest(self, history: History) -> float:
        """Return what an answer took at most while nothing was wrong.

        What follows changes has to wait for the same processors.
        """
        took = (
            each.end - each.begin
            for each in history.operations
            if each.status and self.is_calm(each.begin, each.end)
        )
        return max(took, default=0.0)

    def _settled_after(self, time: float) -> float:
        ends = (x.end for x in self._settled if x.begin >= time)
        return min(ends, default=NEVER)

    def is_calm(self, begin: float, end: float) -> bool:
        """Return whether nothing was wrong in a span."""
        number = bisect.bisect_right(self._begins, end)
        return number == 0 or self._disturbed[number - 1][1] < begin

    def latest(self, operation: Operation) -> float:
        """Return when it was over, whatever became of it.

        One that was not answered may be done when what hangs goes on (the
        page on consistency, *How long a request waits*).
        """
        if operation.outcome != UNKNOWN:
            return operation.end
        ends = [
            fault.end
            for fault in self._faults
            if fault.begin <= operation.end and operation.begin <= fault.end
        ]
        return max([operation.end, *ends]) + AT_WORK

    def arrival(self, operation: Operation, region: int) -> float:
        """Return from when on an operation counts in a region."""
        key = operation.number, region == operation.region
        if key not in self._arrivals:
            self._arrivals[key] = (
                self.latest(operation)
                if key[1]
                else self._elsewhere(operation)
            )
        return self._arrivals[key]

    def _elsewhere(self, operation: Operation) -> float:
        done = self.latest(operation)
        if self.is_calm(operation.begin, done + self.bound):
            return done + self.bound
        for each in self._settled:
            if each.begin < done:
                continue
            if self._is_lost(operation, each.end) and not each.repaired:
                continue
            # What comes late after a gap is looked for every five seconds at
            # first (ADR 0013, *Gaps*).
            counts = each.end + self._late(each.end) + self.bound
            if each.repaired or self.is_calm(each.end + 0.001, counts):
                return counts
        return NEVER

    def _late(self, settled: float) -> float:
        ends = [x.end for x in self._faults if x.end <= settled]
        return max(5.0, (settled - max(ends, default=settled)) / 4)

    def _is_lost(self, operation: Operation, end: float) -> bool:
        return any(
            each.kind in LOSES
            and each.region in (None, operation.region)
            and each.end >= operation.end
            and each.begin <= end
            for each in self._faults
        )

    def was_cut(self, operation: Operation, by: float) -> bool:
        """Return whether nothing got to or from its region until a time.

        That is, from its beginning on, by one cut.
        """
        return any(
            each.kind == 'cut'
            and each.region == operation.region
            and each.since <= operation.begin
            and by <= each.until
            for each in self._faults
        )

    def is_checked(self, operation: Operation) -> bool:
        """Return whether an answer must be right.

        Reads at the end are made again until they are: the last ones count.
        """
        return operation.round in (0, self.last_round)

    def is_last(self, operation: Operation) -> bool:
        return operation.round > 0 and operation.round == self.last_round

    def counts(self, operation: Operation, read: Operation) -> bool:
        """Return whether a read must know of an operation."""
        if operation.round == 0 and self.is_last(read):
            return True
        return self.arrival(operation, read.region) <= read.begin

    def knows(self, second: Operation, first: Operation) -> bool:
        """Return whether one was made where the other one counted.

        Else neither comes before the other: two regions that do not hear of
        each other (the page on deviations, *What wins*).
        """
        return self.arrival(first, second.region) <= second.begin


Value = Callable[[Operation], Any]


def possible(
    time: Timeline,
    writes: Iterable[Operation],
    value: Value,
    read: Operation | None = None,
) -> list[Any]:
    """Return the values that something can have that is written whole.

    :param writes: acknowledged, or with an unknown outcome.
    :param read: what sees it; None in the end, everywhere.
    """
    several = [
        each
        for each in writes
        if each.outcome in (OK, UNKNOWN)
        and (read is None or each.begin < read.end)
    ]
    over = [
        each
        for each in several
        if each.outcome == OK and (read is None or time.counts(each, read))
    ]
    values: list[Any] = []
    for each in several:
        if any(x is not each and time.knows(x, each) for x in over):
            continue
        if value(each) not in values:
            values.append(value(each))
    return values


def _disturbs(fault: Fault) -> list[tuple[float, float]]:
    """Return when a fault keeps changes from others."""
    if fault.kind == 'slow':
        return []
    if fault.kind == 'clock':
        # Its server begins anew then.
        return [(fault.begin, fault.since), (fault.until, fault.end)]
    return [(fault.begin, fault.end)]


def _merged(
    spans: Iterable[tuple[float, float]],
) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
