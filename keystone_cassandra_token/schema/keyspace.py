# SPDX-License-Identifier: Apache-2.0
"""The keyspace: making it, and how it is replicated."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from oslo_config import cfg

from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.schema import ddl

#: Replicas in a datacenter, where it has that many nodes.
_REPLICAS = 3

#: By these tables a keyspace of this package is known.
_OURS = {'schema_migration', 'schema_setting', 'schema_lock'}

_STRATEGY = 'NetworkTopologyStrategy'


def create_keyspace(
    conf: cfg.ConfigOpts,
    replication: Mapping[str, int] | None = None,
    report: ddl.Report = print,
) -> dict[str, int]:
    """Make the keyspace; return its replicas by datacenter.

    :param replication: replicas by datacenter; without it each datacenter
        of the cluster keeps 3, or as many as it has nodes.
    :raises MigrationError: if the keyspace is there with another
        replication, or a datacenter is not in the cluster.
    """
    with ddl.connected(conf) as connection:
        nodes = _nodes_by_datacenter(connection)
        wanted = replication or {
            name: min(_REPLICAS, count) for name, count in nodes.items()
        }
        _check_datacenters(wanted, nodes)
        found = replicas(connection)
        if found is None:
            others = alike(connection)
            if others:
                report(
                    'This cluster already has keyspaces with these tables:'
                    f' {", ".join(others)}. The new one is empty.'
                )
            ddl.alter(connection, keyspace_cql(connection.keyspace, wanted))
            found = replicas(connection)
            report(
                f'Keyspace {connection.keyspace} made, replicas:'
                f' {in_words(found or {})}.'
            )
        else:
            report(
                f'Keyspace {connection.keyspace} exists, replicas:'
                f' {in_words(found)}.'
            )
        # Also after making it: another migrator may have been faster.
        if not found or (replication and found != dict(replication)):
            raise ddl.MigrationError(
                f'Keyspace {connection.keyspace} is replicated as'
                f' {in_words(found or {})}, not as {in_words(wanted)}:'
                ' change that by ALTER KEYSPACE, then repair all nodes.'
            )
        for finding in connection.policy.violations(
            found, connection.local_dc
        ):
            report(finding.text)
        for name, factor in wanted.items():
            if factor > nodes[name]:
                report(
                    f'Datacenter {name} has {nodes[name]} nodes for'
                    f' {factor} replicas: start the others.'
                )
        return found


def keyspace_cql(keyspace: str, replication: Mapping[str, int]) -> str:
    """Return the statement that makes a keyspace."""
    factors = ''.join(
        f", '{name}': {factor}" for name, factor in sorted(replication.items())
    )
    return (
        f'CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication ='
        f" {{'class': '{_STRATEGY}'{factors}}}"
    )


def _nodes_by_datacenter(connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for host in connection.cluster.metadata.all_hosts():
        counts[host.datacenter] = counts.get(host.datacenter, 0) + 1
    return dict(sorted(counts.items()))


def _check_datacenters(
    wanted: Mapping[str, int], nodes: Mapping[str, int]
) -> None:
    unknown = sorted(wanted.keys() - nodes.keys())
    if unknown:
        raise ddl.MigrationError(
            f'There is no datacenter {", ".join(unknown)} in this cluster:'
            f' it has {", ".join(nodes)}.'
        )


def replicas(
    connection: Connection, name: str | None = None
) -> dict[str, int] | None:
    """Return replicas by datacenter as the node has them now.

    None if there is no such keyspace, empty for another strategy.

    :param name: of another keyspace than the connection's.
    """
    row = connection.session.execute(
        'SELECT replication FROM system_schema.keyspaces'
        ' WHERE keyspace_name = %s',
        (name or connection.keyspace,),
    ).one()
    if row is None:
        return None
    options = dict(row['replication'])
    if not options.pop('class').endswith(f'.{_STRATEGY}'):
        return {}
    return {
        name: int(factor.split('/')[0]) for name, factor in options.items()
    }


def in_words(replication: Mapping[str, int]) -> str:
    """Return replicas by datacenter as ``3 in dc1, 3 in dc2``."""
    if not replication:
        return f'not by {_STRATEGY}'
    return ', '.join(
        f'{factor} in {name}' for name, factor in sorted(replication.items())
    )


def require(connection: Connection) -> None:
    """Refuse to go on without the keyspace.

    :raises MigrationError: if it is not there.
    """
    if replicas(connection) is None:
        raise ddl.MigrationError(absent(connection))


def absent(connection: Connection) -> str:
    """Return what to say of a keyspace that is not there.

    It may be misspelt, and creating an empty one would end all tokens: so the
    keyspaces that have this package's tables are named.
    """
    text = f'[cassandra] keyspace = {connection.keyspace} does not exist'
    create = (
        'run `keystone-cassandra keyspace create` and `keystone-cassandra'
        ' schema apply`.'
    )
    others = alike(connection)
    if not others:
        return f'{text}: {create}'
    return (
        f'{text}. Is one of these meant, which have the tables:'
        f' {", ".join(others)}? A new one is empty: all tokens and users are'
        f' unknown there. For a new deployment: {create}'
    )


def alike(connection: Connection) -> list[str]:
    """Return the three keyspaces with our tables of the nearest names."""
    tables: dict[str, set[str]] = {}
    for row in connection.session.execute(
        'SELECT keyspace_name, table_name FROM system_schema.tables'
    ):
        tables.setdefault(row['keyspace_name'], set()).add(row['table_name'])
    ours = [
        name
        for name, found in tables.items()
        if found.issuperset(_OURS) and name != connection.keyspace
    ]
    return difflib.get_close_matches(connection.keyspace, ours, 3, 0)
