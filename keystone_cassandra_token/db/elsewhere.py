# SPDX-License-Identifier: Apache-2.0
"""Conditional writes in datacenters other than this one.

What one datacenter agrees on by itself (LOCAL_SERIAL) can be settled there
alone, by a node of it.  A server otherwise never sends anything to another
datacenter's nodes; this is for what is rare: to take over a name whose owner
may be at work there.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from oslo_config import cfg

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.connection import Connection, Place, connect
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.db.store import Store


class _Opened(Sessions):
    """One connection, which is not replaced."""

    def __init__(self, conf: cfg.ConfigOpts, connection: Connection) -> None:
        super().__init__(conf)
        self.current = connection

    def failed(self, connection: Connection) -> None:
        pass


@contextlib.contextmanager
def each_datacenter(db: Store) -> Iterator[list[Store]]:
    """Yield stores whose nodes are those of one datacenter each, ``db`` first.

    One for each datacenter that has replicas of the keyspace.

    :raises StoreUnavailable: if one of them cannot be reached.
    """
    connection = db.sessions.get()
    others = sorted(connection.replication.keys() - {connection.local_dc})
    with contextlib.ExitStack() as opened:
        yield [db, *(_store(db, connection, each, opened) for each in others)]


def _store(
    db: Store,
    connection: Connection,
    datacenter: str,
    opened: contextlib.ExitStack,
) -> Store:
    place = Place(
        datacenter,
        tuple(
            host.address
            for host in connection.cluster.metadata.all_hosts()
            if host.datacenter == datacenter
        ),
    )
    try:
        there = connect(db.conf, check_policy=False, place=place)
    except errors.DRIVER_ERRORS as error:
        failure = errors.translate(error, f'connect to {datacenter}')
        raise failure from error
    opened.callback(there.cluster.shutdown)
    store = copy.copy(db)
    store.sessions = _Opened(db.conf, there)
    return store
