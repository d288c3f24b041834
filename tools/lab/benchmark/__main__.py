# SPDX-License-Identifier: Apache-2.0
"""The command line of ``tools/benchmark``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from rich.console import Console

from lab.benchmark import plot, report, table, verdict
from lab.benchmark.clients import preload
from lab.benchmark.run import Run


def measure(plan: argparse.Namespace) -> int:
    """Run a benchmark; return the exit status.

    0 if it ran, whatever it measured; 1 with ``--check`` if a target was
    missed.
    """
    began = time.monotonic()
    module = f'lab.benchmark.{plan.benchmark}'
    preload([module])
    with Run(plan) as under_way:
        importlib.import_module(module).run(under_way)
    found = under_way.found
    took = f'{(time.monotonic() - began) / 60:.1f} min'
    found.context['Run'] = f'{time.strftime("%Y-%m-%d")}, {took}'
    rows = report.rows(plan.benchmark, found.measured)
    found.verdicts[:0] = verdict.judge(plan.benchmark, rows)
    report.show(Console(), found)
    if plan.json:
        report.write_json(plan.json, rows)
        report.write_context(report.context_path(plan.json), found)
    if plan.page:
        report.replace(plan.page, report.page(plan.benchmark, found))
    if plan.plot:
        plot.draw(plan.benchmark, rows, plan.plot)
    return 1 if plan.check and verdict.missed(found.verdicts) else 0


if __name__ == '__main__':
    sys.exit(table.run(measure))
