# SPDX-License-Identifier: Apache-2.0
"""The tables as a node describes them, and as ``current.cql`` says.

``current.cql`` is the result of all migrations: made by ``keystone-cassandra
schema dump`` from a fresh keyspace, kept so that each migration shows its
effect, and compared with the keyspace by ``schema verify``.  Of the options
of a table only those that a migration sets are shown, and only where they
are not Cassandra's default.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keystone_cassandra_token.schema import files, parse
from keystone_cassandra_token.schema.parse import Table

if TYPE_CHECKING:
    from keystone_cassandra_token.db.connection import Connection

_HEADER = """\
-- The tables after all migrations, as a node describes them; made by
-- `keystone-cassandra schema dump`, not edited by hand.
"""

#: Options that are shown, with Cassandra's default.
_DEFAULTS: dict[str, Any] = {
    'comment': '',
    'default_time_to_live': 0,
    'gc_grace_seconds': 864000,
    'read_repair': 'BLOCKING',
    'speculative_retry': '99p',
}
#: Strategies that a node takes where a table names none.
_COMPACTION_UNNAMED = (
    'SizeTieredCompactionStrategy',
    'UnifiedCompactionStrategy',
)


def read(connection: Connection) -> dict[str, Table]:
    """Return the tables of the keyspace by name, as the node has them."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for row in _select(connection, 'columns'):
        columns.setdefault(row['table_name'], []).append(row)
    return {
        row['table_name']: _table(columns[row['table_name']], row)
        for row in _select(connection, 'tables')
    }


def _select(connection: Connection, table: str) -> list[dict[str, Any]]:
    return list(
        connection.session.execute(
            f'SELECT * FROM system_schema.{table} WHERE keyspace_name = %s',
            (connection.keyspace,),
        )
    )


def _table(columns: list[dict[str, Any]], options: Mapping[str, Any]) -> Table:
    columns.sort(key=lambda row: row['position'])
    return Table(
        columns={
            row['column_name']: row['type']
            + (' STATIC' if row['kind'] == 'static' else '')
            for row in columns
        },
        partition_key=tuple(
            row['column_name']
            for row in columns
            if row['kind'] == 'partition_key'
        ),
        clustering=tuple(
            row['column_name']
            + (' DESC' if row['clustering_order'] == 'desc' else '')
            for row in columns
            if row['kind'] == 'clustering'
        ),
        options=dict(sorted(_options(options))),
    )


def _options(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, default in _DEFAULTS.items():
        if row[name] != default:
            yield name, _literal(row[name])
    if row['compaction']['class'].endswith(_COMPACTION_UNNAMED):
        return
    yield 'compaction', parse.compaction(row['compaction'])


def _literal(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''") + "'"


def text(tables: Mapping[str, Table]) -> str:
    """Return the tables as canonical CQL, ``{keyspace}`` for its name."""
    return '\n'.join(
        [_HEADER, *(_create(name, tables[name]) for name in sorted(tables))]
    )


def _create(name: str, table: Table) -> str:
    partition = len(table.partition_key)
    key = ', '.join(
        [f'({", ".join(table.partition_key)})', *table.key[partition:]]
    )
    names = dict.fromkeys([*table.key, *sorted(table.columns)])
    lines = [f'    {name} {table.columns[name]},' for name in names]
    options = [f'{name} = {value}' for name, value in table.options.items()]
    if any(column.endswith(' DESC') for column in table.clustering):
        order = ', '.join(
            column if ' ' in column else f'{column} ASC'
            for column in table.clustering
        )
        options.insert(0, f'CLUSTERING ORDER BY ({order})')
    ending = '\n    AND '.join(options)
    return '\n'.join(
        [
            f'CREATE TABLE {{keyspace}}."{name}" (',
            *lines,
            f'    PRIMARY KEY ({key})',
            f') WITH {ending};\n' if options else ');\n',
        ]
    )


def packaged() -> str:
    """Return the text of ``current.cql``."""
    folder = importlib.resources.files(__package__)
    return (folder / 'current.cql').read_text('utf-8')


def current() -> dict[str, Table]:
    """Return the tables of ``current.cql`` by name."""
    return parse.tables(files.split(packaged()))


def differences(connection: Connection) -> Iterator[tuple[bool, str]]:
    """Yield what differs from ``current.cql``: fatal or not, and a text.

    Options may differ on purpose, columns may not.
    """
    found = read(connection)
    for name, table in current().items():
        if name not in found:
            yield (
                True,
                f'Table {name} is missing, though its migration is recorded:'
                ' restore it, or run the CQL of `keystone-cassandra schema'
                ' plan --offline` for it.',
            )
        else:
            yield from _different(name, table, found[name])


def _different(
    name: str, wanted: Table, found: Table
) -> Iterator[tuple[bool, str]]:
    for column, kind in wanted.columns.items():
        if column not in found.columns:
            yield True, f'Table {name} lacks the column {column} {kind}.'
        elif found.columns[column] != kind:
            yield (
                True,
                f'Column {column} of table {name} is'
                f' {found.columns[column]}, not {kind}.',
            )
    if (wanted.partition_key, wanted.clustering) != (
        found.partition_key,
        found.clustering,
    ):
        yield True, f'Table {name} has another primary key.'
    for option in sorted(wanted.options.keys() | found.options.keys()):
        if option == 'comment':
            continue
        default = _DEFAULTS.get(option, "the node's default")
        ours = wanted.options.get(option, default)
        theirs = found.options.get(option, default)
        if ours != theirs:
            yield (
                False,
                f'Table {name} has {option} = {theirs}, this package made it'
                f' with {ours}: fine if that was changed on purpose.',
            )
