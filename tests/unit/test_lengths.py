# SPDX-License-Identifier: Apache-2.0
"""Lengths of strings."""

from __future__ import annotations

import pytest
from keystone import exception

from keystone_cassandra_token import lengths

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
