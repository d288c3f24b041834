# SPDX-License-Identifier: Apache-2.0
"""The drawings of the pages of benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.benchmark import plot, report
from lab.benchmark.measure import Measurements, Sample, Series


def test_a_plot_draws_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason='part of the extra "lab"')
    measured = Measurements()
    for system, scale in (('cassandra', 1), ('sql', 100)):
        for size in (10, 1_000_000):
            measured.add(
                Series(system, 'check', size, 1800),
                [Sample((0.001 * scale, 0.002 * scale), 0.001, 0.0, 0.5)],
            )
    rows = report.rows('revocation', measured)
    for name in ('revocation', 'token'):
        path = tmp_path / f'{name}.svg'
        plot.draw(name, rows, str(path))
        assert '<svg' in path.read_text()
