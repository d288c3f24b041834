# SPDX-License-Identifier: Apache-2.0
"""Timing: one process's loop, and the figures of many."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

#: An end to a loop that is bounded by time alone.
_MOST = 200_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one client process measured in one go.

    :ivar latencies: of each operation, in seconds.
    :ivar cpu: of the whole process, its threads included, in seconds.
    :ivar began: on the clock that all processes of a machine share, seconds.
    :ivar ended: likewise.
    """

    latencies: tuple[float, ...]
    cpu: float
    began: float
    ended: float


@dataclasses.dataclass(frozen=True)
class Series:
    """What is measured: one line of the table.

    :ivar size: rows that are live, of the kind the benchmark is about.
    :ivar token_age: of the token that is checked, in seconds.
    """

    system: str
    operation: str
    size: int
    token_age: int
    clients: int = 1


class Measurements:
    """Samples of all series, in the order in which each was first seen."""

    def __init__(self) -> None:
        self._turns: dict[Series, list[list[Sample]]] = {}

    def add(self, series: Series, turn: list[Sample]) -> None:
        """Add what all clients measured at the same time."""
        self._turns.setdefault(series, []).append(turn)

    def __iter__(self) -> Iterator[Series]:
        return iter(self._turns)

    def figures(self, series: Series) -> Figures:
        """Return the figures of all turns of a series together."""
        turns = self._turns[series]
        samples = [sample for turn in turns for sample in turn]
        latencies = sorted(x for s in samples for x in s.latencies)
        return Figures(
            p50=percentile(latencies, 50),
            p99=percentile(latencies, 99),
            # Turns follow each other, the clients of one work together.
            rate=len(latencies) / sum(_duration(turn) for turn in turns),
            cpu=sum(s.cpu for s in samples) / len(latencies),
            count=len(latencies),
        )


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of a series: seconds, operations per second, seconds."""

    p50: float
    p99: float
    rate: float
    cpu: float
    count: int


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of the ordered ones do not exceed.

    The nearest rank, so always a value that was measured.

    :raises ValueError: if there are none.
    """
    if not ordered:
        raise ValueError('nothing was measured')
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def loop(
    operation: Callable[[], object], count: int, seconds: float
) -> Sample:
    """Run an operation until it ran ``count`` times or time is up.

    At least once.
    """
    latencies = []
    cpu = time.process_time()
    began = now = time.monotonic()
    end = began + seconds
    while len(latencies) < min(count, _MOST):
        before = time.perf_counter()
        operation()
        latencies.append(time.perf_counter() - before)
        now = time.monotonic()
        if now >= end:
            break
    return Sample(tuple(latencies), time.process_time() - cpu, began, now)


def _duration(turn: list[Sample]) -> float:
    return max(s.ended for s in turn) - min(s.began for s in turn)
