# SPDX-License-Identifier: Apache-2.0
"""Stores whose nodes are those of another datacenter.

A server otherwise never sends anything to another datacenter's nodes.  Two
things need it.  What one datacenter agrees on by itself (LOCAL_SERIAL) can be
settled there alone, by a node of it: to take over a name whose owner may be at
work there.  And what was made there a moment ago can be read there alone
(:mod:`.escalation`).
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


class SessionsElsewhere(Sessions):
    """Sessions with nodes of another datacenter.

    Nothing that fails there is an outage of this one.
    """

    def _begin(self) -> None:
        super()._begin()
        self.outage = Unnoted()


def place_of(
    connection: Connection, datacenter: str, single_reads: bool = False
) -> Place:
    """Return where the nodes of a datacenter are, as far as one knows.

    :param single_reads: as for :class:`Place`.
    """
    addresses = {
        host.address
        for host in connection.cluster.metadata.all_hosts()
        if host.datacenter == datacenter
    }
    return Place(datacenter, tuple(sorted(addresses)), single_reads)


def store_in(db: Store, place: Place) -> Store:
    """Return a store at another place; nothing is opened yet."""
    store = copy.copy(db)
    store.sessions = SessionsElsewhere(db.conf, place=place)
    # What is not found there is not sought further.
    store.escalation = None
    return store


@contextlib.contextmanager
def each_datacenter(db: Store) -> Iterator[list[Store]]:
    """Yield stores whose nodes are those of one datacenter each, ``db`` first.

    One for each datacenter that has replicas of the keyspace.

    :raises StoreUnavailable: if one of them cannot be reached.
    """
    connection = db.sessions.get()
    others = sorted(connection.replication.keys() - {connection.local_dc})
    with contextlib.ExitStack() as opened:
        yield [db, *(_opened(db, connection, each, opened) for each in others)]


def _opened(
    db: Store,
    connection: Connection,
    datacenter: str,
    opened: contextlib.ExitStack,
) -> Store:
    store = store_in(db, place_of(connection, datacenter))
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
