# SPDX-License-Identifier: Apache-2.0
"""The summary of Keystone's own tests at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract import left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    left_out.receive(node.config, getattr(node, 'workeroutput', {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = left_out.report(config, terminalreporter.stats)
    if lines:
        terminalreporter.section("Keystone's own tests on these drivers")
        for line in lines:
            terminalreporter.line(line)
