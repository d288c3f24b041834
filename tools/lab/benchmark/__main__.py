# SPDX-License-Identifier: Apache-2.0
"""The command line of ``tools/benchmark``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from lab import LabError
from lab.benchmark import plot, report, run, table, verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark; return the exit status.

    0 if it ran, whatever it measured; 1 with ``--check`` if a target was
    missed; 2 if it could not run.
    """
    plan = table.arguments(argv)
    table.interrupt_at_signals()
    try:
        found = run.measure(plan)
    except LabError as error:
        print(f'{table.PROGRAM}: {error}', file=sys.stderr)
        return table.FAILED
    except KeyboardInterrupt:
        run.say('interrupted; everything that was started is stopped')
        return 130
    report.show(Console(), found)
    rows = report.rows(plan.benchmark, found.measured)
    if plan.json:
        report.write_json(plan.json, rows)
        report.write_context(report.context_path(plan.json), found)
    if plan.page:
        report.replace(plan.page, report.page(plan.benchmark, found))
    if plan.plot:
        plot.draw(plan.benchmark, rows, plan.plot)
    return 1 if plan.check and verdict.missed(found.verdicts) else 0


if __name__ == '__main__':
    sys.exit(main())
