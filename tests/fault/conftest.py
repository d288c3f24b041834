# SPDX-License-Identifier: Apache-2.0
"""Which pairs of operations a run chooses."""

import os

import pytest

from tests.fault import generated


def pytest_configure(config: pytest.Config) -> None:
    # Before the workers are started, which all have it then.
    os.environ.setdefault(generated.SEED, '1')


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
