# SPDX-License-Identifier: Apache-2.0
"""What a server checks of the schema when it connects.

A server never creates or alters: it answers 503 with the command to run
until the keyspace is at its schema version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.cql import Statement, scan
from keystone_cassandra_token.schema import files, regions
from keystone_cassandra_token.schema import keyspace as keyspaces

if TYPE_CHECKING:
    from keystone_cassandra_token.db.connection import Connection

NAME_COMPARISON = 'name_comparison'
#: Options that all servers have in common, recorded in the keyspace.  Those
#: of agreement: two servers with different ones do not see each other's
#: conditional writes, and both succeed.
SERIAL_LEVELS = ('global_serial_consistency', 'local_serial_consistency')
COMMON = (NAME_COMPARISON, *SERIAL_LEVELS)

# A whole table of some ten rows, read once when a server connects.
VERSIONS = scan('SELECT level, checksum FROM schema_migration')
SETTINGS = scan('SELECT name, value FROM schema_setting')


def in_words(reached: int) -> str:
    """Return a keyspace's version beside the one that this package needs."""
    needed = files.latest()
    if reached > needed:
        return f'{reached}, of a newer release: this one needs {needed}'
    if reached < needed:
        return f'{reached}, older than this release, which needs {needed}'
    return str(reached)


def check(
    connection: Connection,
    section: Mapping[str, Any],
    any_region: bool = False,
) -> None:
    """Check that this server and the keyspace fit.

    :param section: the options of ``[cassandra]``.
    :param any_region: also where servers may not serve yet.
    :raises SchemaMissing: if the keyspace, a table or a migration is not
        there.
    :raises StoreUnavailable: if an option must be as it is recorded, and is
        not.
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
    recorded = settings(connection)
    for name in COMMON:
        text = differs(name, section[name], recorded.get(name))
        if text is not None:
            raise errors.StoreUnavailable(text)
    text = regions.refused(recorded, connection)
    if text is not None and not any_region:
        raise errors.StoreUnavailable(text)


def check_of_command(
    connection: Connection, section: Mapping[str, Any]
) -> None:
    """Check as :func:`check`, for what may run in any region."""
    check(connection, section, any_region=True)


def settings(connection: Connection) -> dict[str, str]:
    """Return the values of ``schema_setting`` by name."""
    rows = execute(connection, SETTINGS)
    return {row['name']: row['value'] for row in rows}


def differs(name: str, option: str, recorded: str | None) -> str | None:
    """Return what to do if an option is not as it is recorded, or None."""
    if option == recorded:
        return None
    if recorded is None:
        return (
            f'The keyspace does not say which [cassandra] {name} its servers'
            ' have: run `keystone-cassandra schema apply`.'
        )
    text = (
        f'[cassandra] {name} = {option}, but all servers of this keyspace have'
        f' {recorded}: set the option to {recorded}.'
    )
    if name in SERIAL_LEVELS:
        text += (
            ' To change it, set it in all configurations, stop all servers and'
            ' run `keystone-cassandra schema apply --change-serial-levels`.'
        )
    return text


def execute(
    connection: Connection, statement: Statement, **binds: Any
) -> list[dict[str, Any]]:
    """Run a statement of the schema's own tables."""
    try:
        bound = connection.prepare(statement).bind(binds)
        return list(connection.session.execute(bound))
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, statement.cql) from error
