# SPDX-License-Identifier: Apache-2.0
"""A test on these drivers notices SQL, and nothing else can be had."""

from __future__ import annotations

import pytest
from keystone.common import sql
from keystone.policy.backends.sql import Policy

from tests.conformance import plugin


@pytest.mark.parametrize(
    'opened',
    [lambda: Policy().list_policies(), sql.session_for_write],
    ids=['driver', 'session'],
)
def test_a_session_of_sql_is_refused_and_noted(opened):
    with pytest.raises(AssertionError, match='SQL was touched'):
        opened()
    assert len(plugin.touched) == 1
    plugin.touched.clear()
