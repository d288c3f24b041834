# SPDX-License-Identifier: Apache-2.0
"""What columns refuse."""

from __future__ import annotations

import pytest
from keystone import exception

from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.db.rows import (
    Row,
    any_text,
    boolean,
    json_map,
    text,
)

ROW = Row(
    id=text(4),
    name=text(4, required=True),
    enabled=boolean(required=True),
    legacy_id=any_text(4),
    url=text,
    extra=json_map,
)


@pytest.mark.parametrize(
    'values',
    [
        {'id': 'abcd'},
        {'id': 'äöüß'},
        {'id': None},
        {'id': ''},
        {},
        {'x': 'abcde'},
        {'x': None},
        {'name': ''},
        {'enabled': False},
        {'legacy_id': 1234},
        {'url': 'abcde'},
        {'extra': None},
    ],
)
def test_fitting(values) -> None:
    lengths.check(values, ROW, 'thing')


@pytest.mark.parametrize(
    ('name', 'value'),
    [('id', 'abcde'), ('name', 'äöüßé'), ('legacy_id', 12345)],
)
def test_too_long(name, value) -> None:
    with pytest.raises(exception.StringLengthExceeded) as raised:
        lengths.check({'enabled': None, name: value}, ROW, 'thing')
    for told in (name, str(value), '4'):
        assert told in str(raised.value)


@pytest.mark.usefixtures('keystone_options')
@pytest.mark.parametrize('name', ['name', 'enabled'])
def test_null(name) -> None:
    with pytest.raises(exception.UnexpectedError):
        lengths.check({'id': 'abcd', name: None}, ROW, 'thing')
