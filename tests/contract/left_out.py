# SPDX-License-Identifier: Apache-2.0
"""How many of Keystone's own tests ran, and why some did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

SUITE = 'keystone_suite/'

_REASONS = pytest.StashKey[dict[str, int]]()
_KEY = 'left_out'


def record(config: pytest.Config, reasons: Mapping[str, int]) -> None:
    """Keep the number of tests that are left out for each reason.

    A worker of pytest-xdist hands them to its controller at the end.
    """
    config.stash[_REASONS] = dict(reasons)
    output: dict[str, Any] | None = getattr(config, 'workeroutput', None)
    if output is not None:
        output[_KEY] = dict(reasons)


def receive(config: pytest.Config, output: Mapping[str, Any]) -> None:
    """Take over what a worker recorded: all collect the same tests."""
    if _KEY in output:
        config.stash[_REASONS] = output[_KEY]


def report(config: pytest.Config, stats: Mapping[str, list[Any]]) -> list[str]:
    """Return lines about Keystone's tests; none if none were collected."""
    counts = {
        outcome: sum(
            SUITE in getattr(entry, 'nodeid', '')
            and getattr(entry, 'when', 'call') != 'teardown'
            for entry in entries
        )
        for outcome, entries in stats.items()
        if outcome in ('passed', 'failed', 'error', 'skipped', 'xfailed')
    }
    reasons = config.stash.get(_REASONS, {})
    if not any(counts.values()) and not reasons:
        return []
    ran = ', '.join(f'{n} {outcome}' for outcome, n in counts.items() if n)
    return [
        f'{ran or "none ran"}; {sum(reasons.values())} left out:',
        *(f'{n:5}  {reason}' for reason, n in reasons.items()),
    ]
