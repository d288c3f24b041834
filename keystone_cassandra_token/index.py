# SPDX-License-Identifier: Apache-2.0
"""Index tables: the ids of entities by one of their columns; no I/O.

A partition is a value of the column and a shard, a hash of the id, since one
service user can be the trustee of millions.
"""

from __future__ import annotations

import zlib

from keystone_cassandra_token.cql import read, write

SHARDS = 16
ALL_SHARDS = list(range(SHARDS))


def shard_of(entity_id: str) -> int:
    """Return the shard of an id, 0 to ``SHARDS`` - 1."""
    return zlib.crc32(entity_id.encode()) % SHARDS


class Index:
    """Statements of one index table.

    :param table: its name; beside ``column`` it has ``shard`` and ``id``.
    :param column: the column by which it lists.
    """

    def __init__(self, table: str, column: str) -> None:
        self.column = column
        key = f'{column} = :{column} AND shard'
        self.list = read(f'SELECT id FROM {table} WHERE {key} IN :shards')
        self.insert = write(
            f'INSERT INTO {table} ({column}, shard, id)'
            f' VALUES (:{column}, :shard, :id)'
        )
        self.insert_expiring = self.insert.expiring()
        self.delete = write(
            f'DELETE FROM {table} WHERE {key} = :shard AND id = :id'
        )
