# SPDX-License-Identifier: Apache-2.0
"""What a server checks of the schema when it connects.

A server never creates or alters: it answers 503 with the command to run
until the keyspace is at its schema version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.cql import Statement, read, scan
from keystone_cassandra_token.schema import files
from keystone_cassandra_token.schema import keyspace as keyspaces

if TYPE_CHECKING:
    from keystone_cassandra_token.db.connection import Connection

NAME_COMPARISON = 'name_comparison'

# A whole table of some ten rows, read once when a server connects.
VERSIONS = scan('SELECT level, checksum FROM schema_migration')
SETTING = read('SELECT value FROM schema_setting WHERE name = :name')


def in_words(reached: int) -> str:
    """Return a keyspace's version beside the one that this package needs."""
    needed = files.latest()
    if reached > needed:
        return f'{reached}, of a newer release: this one needs {needed}'
    if reached < needed:
        return f'{reached}, older than this release, which needs {needed}'
    return str(reached)


def check(connection: Connection, name_comparison: str) -> None:
    """Check that this server and the keyspace fit.

    :raises SchemaMissing: if the keyspace, a table or a migration is not
        there.
    :raises StoreUnavailable: if the recorded name comparison is another.
    """
    keyspace = connection.keyspace
    if keyspace not in connection.cluster.metadata.keyspaces:
        raise errors.SchemaMissing(keyspaces.absent(connection))
    found = {row['level'] for row in execute(connection, VERSIONS)}
    if max(found, default=0) < files.latest():
        raise errors.SchemaMissing(
            f'Keyspace {keyspace} is at schema version'
            f' {max(found, default=0)}, this server needs'
            f' {files.latest()}: run `keystone-cassandra schema apply`.'
        )
    recorded = setting(connection, NAME_COMPARISON)
    if recorded != name_comparison:
        raise errors.StoreUnavailable(
            f'[cassandra] name_comparison = {name_comparison}, but keyspace'
            f' {keyspace} was made with {recorded}: set the option to'
            f' {recorded}.'
        )


def setting(connection: Connection, name: str) -> str | None:
    """Return a value of ``schema_setting``, or None."""
    for row in execute(connection, SETTING, name=name):
        return str(row['value'])
    return None


def execute(
    connection: Connection, statement: Statement, **binds: Any
) -> list[dict[str, Any]]:
    """Run a statement of the schema's own tables."""
    try:
        bound = connection.prepare(statement).bind(binds)
        return list(connection.session.execute(bound))
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, statement.cql) from error
