# SPDX-License-Identifier: Apache-2.0
"""Tables as the migrations define them, and statements prepared on them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from cassandra import cqltypes
from cassandra.protocol import ColumnMetadata
from cassandra.query import PreparedStatement

from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.schema import files

_CREATE = re.compile(
    r'CREATE TABLE IF NOT EXISTS ks\."?(?P<name>\w+)"?\s*'
    r'\((?P<body>.*?)\)\s*(?:WITH|$)',
    re.DOTALL,
)
_KEY = re.compile(
    r'PRIMARY KEY \((?:\((?P<partition>[^)]*)\))?(?P<rest>[^)]*)\)', re.DOTALL
)
_COLUMN = re.compile(
    r'^(?P<name>\w+) (?P<type>\w+(?:<.*>)?)'
    r'(?P<key> PRIMARY KEY)?(?P<static> STATIC)?'
)
_MARKER = re.compile(r':(\w+)')

_TYPES = {
    'text': cqltypes.UTF8Type,
    'bigint': cqltypes.LongType,
    'int': cqltypes.Int32Type,
    'boolean': cqltypes.BooleanType,
    'blob': cqltypes.BytesType,
    'uuid': cqltypes.UUIDType,
    'timeuuid': cqltypes.TimeUUIDType,
    'frozen<list<text>>': cqltypes.ListType.apply_parameters(
        (cqltypes.UTF8Type,)
    ),
    'map<text, text>': cqltypes.MapType.apply_parameters(
        (cqltypes.UTF8Type, cqltypes.UTF8Type)
    ),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: CQL types by column, and the columns of its key.

    :ivar static: columns that a partition has once.
    """

    columns: Mapping[str, str]
    partition: tuple[str, ...]
    clustering: tuple[str, ...]
    static: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, ...]:
        return self.partition + self.clustering


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(re.findall(r'\w+', text or ''))


@functools.cache
def tables() -> Mapping[str, Table]:
    """Return all tables of the migrations by name."""
    found = {}
    for migration in files.migrations():
        for statement in migration.statements('ks'):
            created = _CREATE.match(statement)
            if created is None:
                continue
            body = created['body']
            partition, clustering = (), ()
            key = _KEY.search(body)
            if key:
                rest = _names(key['rest'])
                partition = _names(key['partition']) or rest[:1]
                clustering = rest if key['partition'] else rest[1:]
                body = body.replace(key[0], '')
            columns, static = {}, set()
            for line in body.split(',\n'):
                column = _COLUMN.match(line.strip())
                if column is None:
                    continue
                columns[column['name']] = column['type']
                if column['key']:
                    partition = (column['name'],)
                if column['static']:
                    static.add(column['name'])
            found[created['name']] = Table(
                columns, partition, clustering, frozenset(static)
            )
    return found


def prepared(statement: Statement, **others: str) -> Any:
    """Return a statement as the driver prepares it, without a server.

    :param others: CQL types of the markers that are no columns.
    """
    table = tables()[statement.table]
    types = {**table.columns, 'ttl': 'int', **others}
    names = _MARKER.findall(statement.cql)
    return PreparedStatement(
        column_metadata=[
            ColumnMetadata('ks', statement.table, name, _TYPES[types[name]])
            for name in names
        ],
        query_id=b'',
        routing_key_indexes=[
            names.index(column)
            for column in table.partition
            if column in names
        ]
        or None,
        query=statement.text('ks'),
        keyspace=None,
        protocol_version=5,
        result_metadata=None,
        result_metadata_id=None,
    )
