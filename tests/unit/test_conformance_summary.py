# SPDX-License-Identifier: Apache-2.0
"""The table after Keystone's own tests: each test is counted once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import summary


def reported(test: str, when: Any, outcome: Any, **more: Any) -> Any:
    return pytest.TestReport(
        nodeid=f'keystone/tests/unit/test_v3_trust.py::{test}',
        location=('', 0, ''),
        keywords={},
        outcome=outcome,
        longrepr=None,
        when=when,
        **more,
    )


def counted(config: pytest.Config, **stats: list[Any]) -> list[str]:
    """Return what the table says of trusts: passed, failed, skipped."""
    lines = summary.report(config, stats)
    (line,) = [line for line in lines if line.startswith('trusts')]
    return line.split()[1:4]


def test_who_fails_to_clear_up_has_failed(pytestconfig):
    assert counted(
        pytestconfig,
        passed=[reported(test, 'call', 'passed') for test in 'ab'],
        error=[reported('a', 'teardown', 'failed')],
    ) == ['1', '1', '0']


def test_who_is_expected_to_fail_is_counted_as_skipped(pytestconfig):
    assert counted(
        pytestconfig,
        xfailed=[reported('a', 'call', 'skipped', wasxfail='')],
    ) == ['0', '0', '1']
