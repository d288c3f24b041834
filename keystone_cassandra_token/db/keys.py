# SPDX-License-Identifier: Apache-2.0
"""Keys that no row can have; no I/O.

Cassandra refuses a statement about a null, or about more than 64 KiB, as
invalid, and the driver fails to bind what is no text.  For who asks, there is
no such row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import cassandra.query

from keystone_cassandra_token.db import errors

#: Bytes of the longest part of a key, and of the longest partition key.
_LONGEST = 65_535


class Nothing:
    """The answer to a statement about a key that no row can have."""

    def result(self) -> Nothing:
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def one(self) -> dict[str, Any]:
        return {'[applied]': False}


NOTHING = Nothing()


def bind(
    prepared: Any, values: Mapping[str, Any]
) -> cassandra.query.BoundStatement:
    """Bind values to a prepared statement.

    :raises ValueRefused: if that cannot be, or if Cassandra takes no such
        partition key.
    """
    try:
        bound = prepared.bind(values)
    except errors.BINDING_ERRORS:
        # Without the driver's exception: its text quotes the value.
        raise errors.ValueRefused() from None
    if not _can_be(bound):
        raise errors.ValueRefused()
    return bound


def _can_be(bound: cassandra.query.BoundStatement) -> bool:
    """Return whether Cassandra takes the partition key of a statement."""
    parts = bound.prepared_statement.routing_key_indexes
    if not parts:
        return True  # a part of it is constant, or asked for by IN
    if any(bound.values[part] is None for part in parts):
        return False
    try:
        return 0 < len(bound.routing_key) <= _LONGEST
    except (TypeError, struct.error):  # a part is unset, or too long
        return False


def possible(binds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a read, of an IN those that a row can have.

    All of them are keys: nothing else can be asked for.

    :raises ValueRefused: if no row can have another one.
    """
    keys = {}
    for name, value in binds.items():
        if isinstance(value, list | tuple | set | frozenset):
            # An empty text is no partition key, and no entity's id.
            keys[name] = [
                each for each in value if each != '' and _can_be_in(each)
            ]
        elif _can_be_in(value):
            keys[name] = value
        else:
            raise errors.ValueRefused()
    return keys


def _can_be_in(value: object) -> bool:
    """Return whether a value can be a part of a key."""
    if not isinstance(value, str):
        return value is not None
    try:
        return len(value.encode()) <= _LONGEST
    except UnicodeEncodeError:  # a lone surrogate
        return False
