# SPDX-License-Identifier: Apache-2.0
"""What a process remembers."""

from keystone_cassandra_token.tables.recent import ReadAheadCache


def test_the_last_value_is_remembered() -> None:
    recent = ReadAheadCache(2)
    assert recent.get('a') is None
    recent.set('a', 1)
    recent.set('a', 2)
    assert recent.get('a') == 2


def test_none_forgets() -> None:
    recent = ReadAheadCache(2)
    recent.set('a', 1)
    recent.set('a', None)
    assert recent.get('a') is None
    recent.set('b', None)
    assert recent.get('b') is None


def test_what_was_set_first_is_forgotten_first() -> None:
    recent = ReadAheadCache(2)
    for name in ('a', 'b', 'a', 'c'):
        recent.set(name, name)
    assert [recent.get(name) for name in 'abc'] == ['a', None, 'c']
