# SPDX-License-Identifier: Apache-2.0
"""The TTLs of rows as the node tells them.

The columns come from the node's own schema, so that a new one is not
forgotten.
"""

from collections.abc import Mapping
from typing import Any

#: Seconds by which a TTL may be below the exact one when it is read: a slow
#: machine reads late.
LATE = 60


def columns(session: Any, keyspace: str, table: str) -> list[str]:
    """Return the columns that are not of the primary key."""
    return sorted(
        row['column_name']
        for row in session.execute(
            'SELECT column_name, kind FROM system_schema.columns'
            ' WHERE keyspace_name = %s AND table_name = %s',
            (keyspace, table),
        )
        if row['kind'] == 'regular'
    )


def ttls(
    session: Any, keyspace: str, table: str, key: Mapping[str, Any]
) -> dict[str, int | None]:
    """Return column -> TTL of the one row with a key; null ones are out.

    :param key: column -> value of a part of the primary key that names it.
    """
    names = columns(session, keyspace, table)
    asked = ', '.join(
        f'"{name}", TTL("{name}") AS "ttl of {name}"' for name in names
    )
    where = ' AND '.join(f'"{name}" = %s' for name in key)
    (row,) = session.execute(
        f'SELECT {asked} FROM {keyspace}."{table}" WHERE {where}'
        ' ALLOW FILTERING',
        list(key.values()),
    )
    return {
        name: row[f'ttl of {name}'] for name in names if row[name] is not None
    }


def check(found: Mapping[str, int | None], expected: int) -> None:
    """Each column's TTL, read a moment after it was written."""
    assert found
    for name, ttl in found.items():
        assert ttl is not None, f'{name} lives for ever'
        assert expected - LATE <= ttl <= expected + 1, name
