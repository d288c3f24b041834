# SPDX-License-Identifier: Apache-2.0
"""Which histories are made: by default one, small, for a run of all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup('histories')
    group.addoption(
        '--seeds',
        metavar='1-20',
        help='of the histories, as 3 or 1-20,30; default: one small one',
    )
    group.addoption(
        '--seconds',
        type=float,
        metavar='N',
        help='for which clients work; default: 120, or 25 for a small one',
    )
    group.addoption(
        '--planted',
        action='store_true',
        help='plant each fault in the package, which must be found',
    )
    group.addoption(
        '--histories',
        metavar='FOLDER',
        help='where histories are kept; default: a temporary folder',
    )
    group.addoption(
        '--record',
        metavar='FILE',
        help='add a line for each history, for python -m tests.regions.table',
    )
