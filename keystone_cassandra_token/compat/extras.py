# SPDX-License-Identifier: Apache-2.0
"""Attributes that Keystone lets callers add, kept apart as ``extra``.

The counterpart of its SQL models' ``ModelDictMixinWithExtras``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.db.rows import Row


def to_row(given: Mapping[str, Any], row: Row, kind: str) -> dict[str, Any]:
    """Return the values of the columns that an entity names.

    And the rest as ``extra``, if there is such a column.

    :raises: as :func:`lengths.check`, which says what ``kind`` is.
    """
    found = {name: given[name] for name in row.attributes if name in given}
    lengths.check(found, row, kind)
    if 'extra' in row.columns:
        found['extra'] = {
            name: given[name]
            for name in given
            # An attribute of that name is dropped, as with SQL.
            if name not in row.columns
        }
    return found


def to_ref(entity: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """Return an entity as the SQL drivers return it."""
    return {
        **(entity.get('extra') or {}),
        **{name: entity[name] for name in row.attributes},
    }
