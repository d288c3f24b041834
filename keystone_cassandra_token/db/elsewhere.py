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

from oslo_log import log

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.connection import Connection, Place
from keystone_cassandra_token.db.outage import Unnoted
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)


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
    addresses = tuple(
        host.address
        for host in connection.cluster.metadata.all_hosts()
        if host.datacenter == datacenter
    )
    store = copy.copy(db)
    store.sessions = Sessions(db.conf, place=Place(datacenter, addresses))
    store.sessions.outage = Unnoted()
    opened.callback(store.close)
    try:
        store.sessions.get()
    except errors.StoreUnavailable as failure:
        LOG.warning(
            'The nodes of datacenter %s must be reached to take over what a'
            ' server there may have left: %s',
            datacenter,
            failure.reason,
        )
        raise
    return store
