# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the fault tests, and which pairs of operations a run chooses."""

import os
from collections.abc import Iterator

import pytest

from tests.fault import generated
from tests.fault.keystone_servers import (
    Bootstrapped,
    Servers,
    bootstrapped,
    servers_in,
)


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


@pytest.fixture(scope='session')
def template(tmp_path_factory: pytest.TempPathFactory) -> Bootstrapped:
    """What one bootstrap leaves, for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # of all workers; else of other runs, too
    return bootstrapped(folder / 'bootstrapped')


@pytest.fixture(scope='module')
def all_servers(
    tmp_path_factory: pytest.TempPathFactory, template: Bootstrapped
) -> Iterator[Servers]:
    """Makes servers, which share what one bootstrap leaves."""
    yield from servers_in(tmp_path_factory.mktemp('servers'), template)


@pytest.fixture
def servers(all_servers: Servers) -> Iterator[Servers]:
    """Makes servers that are stopped after the test."""
    yield all_servers
    all_servers.stop()
