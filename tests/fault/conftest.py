# SPDX-License-Identifier: Apache-2.0
"""Which pairs of operations a run chooses: another few each day."""

import datetime
import os

import pytest

from tests.fault import generated


def pytest_configure(config: pytest.Config) -> None:
    # Before the workers are started, which all have it then.
    today = datetime.datetime.now(datetime.UTC).date()
    os.environ.setdefault(generated.SEED, today.isoformat())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section('pairs of operations')
    terminalreporter.line(
        'all of them'
        if config.getoption('all_pairs')
        else f'{generated.SEED}={os.environ[generated.SEED]} chooses the same'
        ' again, --all-pairs takes all'
    )
