# SPDX-License-Identifier: Apache-2.0
"""What metrics and spans cost a validation."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
from lab import LabError
from lab.benchmark import report, token
from lab.benchmark.measure import Sample
from osprofiler import profiler

from keystone_cassandra_token.db import metrics, watch


def watched_by(
    monkeypatch: pytest.MonkeyPatch, validate: Callable[[], object]
) -> list[list[Sample]]:
    monkeypatch.setattr(token, '_WARM', 1)
    monkeypatch.setattr(token, '_validate', lambda *_: validate)
    systems: Any = None
    return token.watched(systems, 2)


def test_each_way_adds_to_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = watch.traced
    seen = []

    def validate() -> None:
        seen.append((metrics.current.on, watch.traced is looks, traced()))
        metrics.count(metrics.REVOCATIONS)
        profiler.start('nothing')
        profiler.stop()

    def traced() -> bool:
        return profiler.get() is not None

    turns = watched_by(monkeypatch, validate)
    ways = [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    # In any order, each once before one comes again.
    for begin in range(0, 12, 4):
        assert sorted(seen[begin : begin + 4]) == ways
    assert len(seen) == 12
    # The first of each was not counted.
    assert [len(turn) for turn in turns] == [2] * 4
    # Nothing of it stays.
    assert not metrics.current.on
    assert watch.traced is looks
    assert not traced()


def test_a_validation_without_spans_does_not_pass_for_a_traced_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LabError):
        watched_by(monkeypatch, lambda: metrics.count(metrics.REVOCATIONS))


@pytest.mark.parametrize(
    ('counted', 'both', 'met'),
    [
        (1.02, 1.02, [True, True]),
        (1.01, 1.03, [True, False]),
        (1.03, 1.01, [False, True]),
    ],
)
def test_both_together_have_the_limit_of_metrics(
    counted: float, both: float, met: list[bool]
) -> None:
    turns = [[Sample((p50,), 0, 0, p50)] for p50 in (1.0, counted, both, 1.5)]
    run: Any = types.SimpleNamespace(
        plan=types.SimpleNamespace(tokens=500, rounds=2), found=report.Found()
    )
    pool: Any = types.SimpleNamespace(call=lambda *_: turns)
    token._count(run, pool)
    metrics_alone, together = run.found.verdicts
    assert 'cost of metrics:' in str(metrics_alone)
    assert 'cost of metrics and spans:' in str(together)
    assert [metrics_alone.met, together.met] == met
    # That of a trace is told, and not judged.
    assert '1.5000 x' in run.found.context['Trace']
    assert len(run.found.measured) == len(token.WATCHED)
