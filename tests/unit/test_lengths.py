# SPDX-License-Identifier: Apache-2.0
"""What columns refuse; tests with SQL have what is null."""

from __future__ import annotations

import pytest
from keystone import exception

from keystone_cassandra_token.compat import lengths

LIMITS = {'id': 4}


@pytest.mark.parametrize(
    'values',
    [{'id': 'abcd'}, {'id': 'äöüß'}, {'id': None}, {}, {'x': 'abcde'}],
)
def test_fitting(values) -> None:
    lengths.check(values, LIMITS)


def test_too_long() -> None:
    with pytest.raises(exception.StringLengthExceeded):
        lengths.check({'id': 'abcde'}, LIMITS)


@pytest.mark.parametrize('values', [{'id': ''}, {'id': False}, {'x': None}])
def test_no_null(values) -> None:
    lengths.check_null(values, ['id'], 'kind')
