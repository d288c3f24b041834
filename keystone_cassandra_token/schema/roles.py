# SPDX-License-Identifier: Apache-2.0
"""Roles of Cassandra: what they need, and what they lack."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from collections.abc import Iterable

import cassandra

from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.schema import ddl

_GRANT = re.compile(
    r'^GRANT (\w+) ON (KEYSPACE )?(\S+) TO (\w+);$', re.MULTILINE
)


class Unknown(Exception):
    """The permissions of a role cannot be read; the message says why."""


class NoAuthorizer(Unknown):
    """Everybody may do all."""


class NoRole(Unknown):
    """There is no such role."""


@dataclasses.dataclass(frozen=True)
class Grant:
    """A permission that a role needs.

    :ivar resource: as ``LIST PERMISSIONS`` writes it.
    :ivar on: as ``GRANT`` takes it.
    :ivar whole: on the whole keyspace.
    """

    permission: str
    resource: str
    on: str
    whole: bool

    def cql(self, role: str) -> str:
        """Return the statement that gives it to a role."""
        return f'GRANT {self.permission} ON {self.on} TO {quoted(role)};'


def text(keyspace: str) -> str:
    """Return the CQL of the roles for a keyspace."""
    folder = importlib.resources.files('keystone_cassandra_token.schema')
    return (
        (folder / 'roles.cql')
        .read_text('utf-8')
        .replace('{keyspace}', keyspace)
    )


def server(keyspace: str) -> str:
    """Return the name that :func:`text` gives to the servers' role."""
    return f'{keyspace}_server'


def quoted(role: str) -> str:
    """Return a role's name as it stands in CQL."""
    if re.fullmatch('[a-z][a-z0-9_]*', role):
        return role
    escaped = role.replace('"', '""')
    return f'"{escaped}"'


def needed(keyspace: str) -> list[Grant]:
    """Return what a server needs."""
    found = []
    for permission, whole, name, role in _GRANT.findall(text(keyspace)):
        if role == server(keyspace):
            kind = 'keyspace' if whole else 'table'
            plain = name.replace('"', '')
            found.append(
                Grant(
                    permission,
                    f'<{kind} {plain}>',
                    whole + name,
                    whole=bool(whole),
                )
            )
    return found


def lacking(connection: Connection, role: str) -> list[Grant]:
    """Return what a role lacks to be the one of a server.

    :raises Unknown: if its permissions cannot be read.
    """
    try:
        if _is_superuser(connection, role):
            return []
        rows = connection.session.execute(
            f'LIST ALL PERMISSIONS OF {quoted(role)}'
        )
    except cassandra.Unauthorized as error:
        raise Unknown('this log-in may not see them') from error
    except cassandra.InvalidRequest as error:
        if "doesn't exist" in str(error):
            raise NoRole(f'there is no role {role}') from error
        raise NoAuthorizer('the nodes have no authorizer') from error
    has = {(row['permission'], row['resource']) for row in rows}
    wide = ['<all keyspaces>', f'<keyspace {connection.keyspace}>']
    wide.append(f'<all tables in {connection.keyspace}>')
    # Nobody can be given a permission on a table that is not there.
    there = {
        f'<table {connection.keyspace}.{name}>'
        for name in ddl.table_names(connection)
    }
    return [
        grant
        for grant in needed(connection.keyspace)
        if (grant.whole or grant.resource in there)
        and not any(
            (grant.permission, resource) in has
            for resource in (grant.resource, *wide)
        )
    ]


def _is_superuser(connection: Connection, role: str) -> bool:
    rows = connection.session.execute(f'LIST ROLES OF {quoted(role)}')
    return any(row['super'] for row in rows)


def script(grants: Iterable[Grant], role: str) -> str:
    """Return the statements that give all of them to a role."""
    return ' '.join(grant.cql(role) for grant in grants)
