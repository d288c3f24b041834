# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' figures: percentiles, rates, CPU, turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.benchmark.measure import (
    Measurements,
    Sample,
    Series,
    loop,
    percentile,
)

CHECK = Series('cassandra', 'check', 10, 1800)


def test_percentile_is_the_nearest_rank() -> None:
    values = list(range(1, 101))
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 50) == 7.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    # With a hundred values, p99 leaves the worst one out; with 99 it is it.
    assert percentile([0.0] * 99 + [9.0], 99) == 0.0
    assert percentile([0.0] * 98 + [9.0], 99) == 9.0


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match='nothing was measured'):
        percentile([], 50)


@given(
    st.lists(st.floats(0, 1e6), min_size=1).map(sorted),
    st.integers(1, 100),
)
def test_percentile_leaves_the_share_below(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    assert sum(v < found for v in values) * 100 < percent * len(values)


def test_figures_of_turns_with_several_clients() -> None:
    measured = Measurements()
    # Two clients at the same time, then two again; a pause in between
    # that belongs to others.
    measured.add(
        CHECK,
        [
            Sample((0.1, 0.3), 0.2, began=0.0, ended=1.0),
            Sample((0.2, 0.2), 0.2, began=0.5, ended=2.0),
        ],
    )
    measured.add(
        CHECK,
        [
            Sample((0.1, 0.1), 0.2, began=100.0, ended=101.0),
            Sample((0.4, 0.5), 0.2, began=100.0, ended=102.0),
        ],
    )
    figures = measured.figures(CHECK)
    assert figures.count == 8
    assert figures.p50 == 0.2
    assert figures.p99 == 0.5
    assert figures.rate == pytest.approx(8 / (2 + 2))
    assert figures.cpu == pytest.approx(0.8 / 8)


def test_series_keep_the_order_in_which_they_came() -> None:
    measured = Measurements()
    other = Series('sql', 'check', 10, 1800)
    sample = [Sample((0.1,), 0.1, 0.0, 1.0)]
    for series in (other, CHECK, other):
        measured.add(series, sample)
    assert list(measured) == [other, CHECK]
    assert measured.figures(other).count == 2


def test_loop_ends_at_the_count() -> None:
    runs = []
    sample = loop(lambda: runs.append(1), 7, float('inf'))
    assert len(runs) == len(sample.latencies) == 7
    assert all(latency >= 0 for latency in sample.latencies)
    assert sample.ended >= sample.began


def test_loop_runs_at_least_once_however_little_time() -> None:
    runs = []
    sample = loop(lambda: runs.append(1), 1000, 0.0)
    assert len(runs) == len(sample.latencies) == 1


def test_loop_lets_failures_out() -> None:
    # A failing operation is no latency.
    with pytest.raises(ZeroDivisionError):
        loop(lambda: 1 / 0, 1, 1.0)
