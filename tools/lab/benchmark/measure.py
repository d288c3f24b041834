# SPDX-License-Identifier: Apache-2.0
"""Timing: one process's loop, and the figures of many."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """What one client process measured in one go; all in seconds."""

    latencies: tuple[float, ...]  # of each operation
    cpu: float  # of the whole process, its threads included
    began: float  # on the clock that all processes of a machine share
    ended: float


class Series(NamedTuple):
    """What is measured: one line of the table."""

    system: str
    operation: str
    size: int  # rows that are live, of the kind the benchmark is about
    token_age: int = 0  # of the token that is checked, in seconds
    clients: int = 1


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of a series."""

    p50: float  # seconds
    p99: float  # seconds
    rate: float  # operations per second, of all clients together
    cpu: float  # seconds of an operation
    count: int


class Measurements(dict[Series, list[list[Sample]]]):
    """Samples by series and turn, in the order in which each came first."""

    def add(self, series: Series, turn: list[Sample]) -> None:
        """Add what all clients measured at the same time."""
        self.setdefault(series, []).append(turn)

    def figures(self, series: Series) -> Figures:
        """Return the figures of all turns of a series together."""
        samples = [sample for turn in self[series] for sample in turn]
        latencies = sorted(x for s in samples for x in s.latencies)
        # Turns follow each other, the clients of one work together.
        seconds = sum(
            max(s.ended for s in turn) - min(s.began for s in turn)
            for turn in self[series]
        )
        count = len(latencies)
        return Figures(
            percentile(latencies, 50),
            percentile(latencies, 99),
            rate=count / seconds,
            cpu=sum(s.cpu for s in samples) / count,
            count=count,
        )

    def all_figures(self) -> Iterator[tuple[Series, Figures]]:
        """Yield each series with its figures."""
        for series in self:
            yield series, self.figures(series)


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
    """Run an operation ``count`` times or until time is up; at least once."""
    latencies: list[float] = []
    cpu = time.process_time()
    began = now = time.monotonic()
    while not latencies or (len(latencies) < count and now < began + seconds):
        before = time.perf_counter()
        operation()
        latencies.append(time.perf_counter() - before)
        now = time.monotonic()
    return Sample(tuple(latencies), time.process_time() - cpu, began, now)
