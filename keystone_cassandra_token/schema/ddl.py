# SPDX-License-Identifier: Apache-2.0
"""Changes of the schema, one statement at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator

import cassandra.cluster
import cassandra.query
from oslo_config import cfg

from keystone_cassandra_token.db import errors, session
from keystone_cassandra_token.db.connection import Connection, connect

#: Seconds for the nodes to agree on the schema after a statement.
AGREEMENT_TIMEOUT = 15.0
#: Seconds for one statement; with the wait above less than the lease's life.
STATEMENT_TIMEOUT = 40.0


Report = Callable[[str], None]


class MigrationError(Exception):
    """The schema cannot be changed; the message says what to do."""


@contextlib.contextmanager
def connected(
    conf: cfg.ConfigOpts, without: Collection[str] = ()
) -> Iterator[Connection]:
    """Connect for the schema tool, whatever the consistency options are.

    :param without: addresses of nodes to leave out.
    :raises StoreUnavailable: if no node can be reached.
    :raises ConfigurationError: for options that cannot work.
    """
    try:
        connection = connect(conf, check_policy=False, without=without)
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, session.CONNECTING) from error
    try:
        connection.cluster.max_schema_agreement_wait = AGREEMENT_TIMEOUT
        yield connection
    finally:
        connection.cluster.shutdown()


def alter(connection: Connection, text: str) -> None:
    """Run one statement that changes the schema; all nodes must agree.

    :raises MigrationError: if they do not in time.
    """
    with _translated(text):
        connection.session.execute(
            cassandra.query.SimpleStatement(text), timeout=STATEMENT_TIMEOUT
        )
    # Also where the statement changed nothing: then another made it.
    agree(connection)


def set_options(connection: Connection, text: str) -> None:
    """Run one statement that sets options of a table.

    Nothing that follows needs it, so nobody waits for the nodes to agree;
    :func:`agree` does in the end.  All of them go to one node, so that two
    nodes are not given changes at once.
    """
    cluster = connection.cluster
    with _translated(text), _not_waiting(cluster):
        connection.session.execute(
            cassandra.query.SimpleStatement(text),
            timeout=STATEMENT_TIMEOUT,
            host=cluster.get_control_connection_host(),
        )


@contextlib.contextmanager
def _not_waiting(cluster: cassandra.cluster.Cluster) -> Iterator[None]:
    """Let the driver neither wait for agreement nor read the table again."""
    before = cluster.max_schema_agreement_wait, cluster.schema_metadata_enabled
    cluster.max_schema_agreement_wait = 0
    cluster.schema_metadata_enabled = False
    try:
        yield
    finally:
        cluster.max_schema_agreement_wait, cluster.schema_metadata_enabled = (
            before
        )


@contextlib.contextmanager
def _translated(text: str) -> Iterator[None]:
    try:
        yield
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, text.split('(')[0]) from error


def agree(connection: Connection) -> None:
    """Wait until all nodes that are up agree on the schema.

    :raises MigrationError: if they do not in time.
    """
    if not agreed(connection, AGREEMENT_TIMEOUT):
        raise MigrationError(
            'The nodes do not agree on the schema after'
            f' {AGREEMENT_TIMEOUT:.0f} s (`nodetool describecluster` shows'
            ' which): bring them up or take them out of the cluster, then'
            ' run this again.'
        )


def agreed(connection: Connection, wait: float) -> bool:
    """Return whether all nodes that are up agree on the schema.

    :param wait: seconds in which they may come to do so.
    """
    with _translated('the agreement on the schema'):
        return bool(
            connection.cluster.control_connection.wait_for_schema_agreement(
                wait_time=wait
            )
        )


def table_names(connection: Connection) -> set[str]:
    """Return the tables of the keyspace, as the node has them now."""
    rows = connection.session.execute(
        'SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s',
        (connection.keyspace,),
    )
    return {row['table_name'] for row in rows}
