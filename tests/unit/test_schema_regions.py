# SPDX-License-Identifier: Apache-2.0
"""Which regions may serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from keystone_cassandra_token.schema import regions

TWO = {'dc1': 3, 'dc2': 3}


@pytest.mark.parametrize(
    ('recorded', 'replication', 'serves'),
    [
        (['dc1', 'dc2'], TWO, True),
        (['dc2'], TWO, False),
        # From before there were records.
        ([], TWO, True),
        # Nobody could tell it what it lacks.
        (['dc2'], {'dc1': 3}, True),
    ],
)
def test_who_may_serve(
    recorded: list[str], replication: dict[str, int], serves: bool
) -> None:
    settings = {regions.READY + name: '2026-11-29' for name in recorded}
    settings['revocation_ttl'] = '5400'
    connection: Any = SimpleNamespace(local_dc='dc1', replication=replication)
    refused = regions.refused(settings, connection)
    assert (refused is None) == serves
    if not serves:
        assert refused is not None
        assert 'region ready' in refused
