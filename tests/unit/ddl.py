# SPDX-License-Identifier: Apache-2.0
"""Statements as a node prepares them, on the tables of the migrations."""

from __future__ import annotations

import re
from typing import Any

from cassandra import cqltypes
from cassandra.protocol import ColumnMetadata
from cassandra.query import PreparedStatement

from keystone_cassandra_token.db.cql import Statement
from tests import statements

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


def prepared(statement: Statement, **others: str) -> Any:
    """Return a statement as the driver prepares it, without a server.

    :param others: CQL types of the markers that are no columns.
    """
    table = statements.tables()[statement.table]
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
            for column in table.partition_key
            if column in names
        ]
        or None,
        query=statement.text('ks'),
        keyspace=None,
        protocol_version=5,
        result_metadata=None,
        result_metadata_id=None,
    )
