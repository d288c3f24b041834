# SPDX-License-Identifier: Apache-2.0
"""The log of changes, by which datacenters tell each other to look again.

Keystone remembers in its cache what it has read.  Who changes something drops
that from the cache of its own datacenter; servers of the others follow this
log (:mod:`.following`) and drop it from theirs.

An entry is written once its change is there, and tells its table and key: a
follower makes sure that it can read the change before it drops anything.  The
partition is an hour of one datacenter, and entries are in the order of its
pulse.  With one datacenter nothing is written.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import cassandra.util
from oslo_log import log

from keystone_cassandra_token.db import clock, cql, deadline, errors
from keystone_cassandra_token.db.connection import (
    Connection,
    replicas_by_datacenter,
)
from keystone_cassandra_token.db.rows import Row, json_text
from keystone_cassandra_token.db.sender import Step

if TYPE_CHECKING:
    from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

T = TypeVar('T')

#: Seconds for which an entry is kept.  What a cache remembers ends before.
TTL = 4 * 3600

#: Seconds that an entry is given at least.
_PATIENCE = 0.5

#: Changes of which others could not be told yet, and how many are kept.
_untold: collections.deque[tuple[str, Mapping[str, Any]]]
_untold = collections.deque(maxlen=10_000)

_HOUR = 3600 * 10**6  # in microseconds

Key = dict[str, Any]

ENTRY = Row('datacenter', 'hour', 'id', 'table_name', key=json_text)
ID = Row('id')
PULSE = Row('datacenter', 'beat')

_INSERT = (
    f'INSERT INTO change_log ({ENTRY}) VALUES ({ENTRY.markers}) USING TTL :ttl'
)
ADD = cql.write(_INSERT)
#: In the class of the revocation that it tells of, beside which it is written.
ADD_REVOCATION = cql.revocation_write(_INSERT)
#: Most of those that are read are known, so it reads no more of them.
IDS_SINCE = cql.read(
    f'SELECT {ID} FROM change_log'
    ' WHERE datacenter = :datacenter AND hour = :hour AND id > :since'
)
SOME = cql.read(
    f'SELECT {ENTRY} FROM change_log'
    ' WHERE datacenter = :datacenter AND hour = :hour AND id IN :ids'
).unpaged()
BEAT = cql.write(
    'INSERT INTO pulse (bucket, datacenter, beat)'
    ' VALUES (0, :datacenter, :beat)'
)
PULSES = cql.read(f'SELECT {PULSE} FROM pulse WHERE bucket = 0')

#: By table: what makes changes of rows with these keys readable in this
#: datacenter.  Set by who writes the table.
FETCH: dict[str, Callable[[Store, Sequence[Key]], object]] = {}

#: By table: what is done about changes that became known long after they were
#: made, once they can be read.
LATE: dict[str, Callable[[Store, Sequence[Key]], object]] = {}

#: The revocations' table; all others hold what there is.
REVOCATION = 'revocation'


class Latest:
    """The latest beat of this datacenter that this process has seen."""

    beat = 0


latest = Latest()


def heard(beat: int) -> None:
    """Note a beat of this datacenter, microseconds since 1970.

    Entries that are written from now on are not before it, whatever the clock
    of this server says.
    """
    latest.beat = max(latest.beat, beat)


def hours(since: int, until: int) -> range:
    """Return the partitions of a span, both ends in microseconds."""
    return range(since // _HOUR, until // _HOUR + 1)


def first_id(since: int) -> uuid.UUID:
    """Return an id before all that are of a time or later."""
    return uuid.UUID(str(cassandra.util.min_uuid_from_time(since / 10**6)))


def datacenters(connection: Connection) -> set[str]:
    """Return the datacenters that have replicas now."""
    found = replicas_by_datacenter(connection.cluster, connection.keyspace)
    return {*(found or connection.replication)}


def are_told(connection: Connection) -> bool:
    """Return whether there are others who could follow."""
    return len(datacenters(connection)) > 1


def tell(db: Store, table: str, key: Mapping[str, Any]) -> None:
    """Tell other datacenters of a change that was made, or may have been.

    If that cannot be done now this process does it later.
    """
    left = deadline.remaining(db.conf.cassandra.request_deadline)
    try:
        connection = db.sessions.get()
        if not are_told(connection):
            return
        with contextlib.ExitStack() as stack:
            if left is not None and left < _PATIENCE:
                # The change has used up the time of its request.
                stack.enter_context(deadline.within(_PATIENCE))
            db.run(ADD, **_entry(connection, table, key))
    except errors.StoreUnavailable as failure:
        _untold.append((table, key))
        LOG.warning(
            'Other regions were not told of a change in table %s; there it'
            ' counts once they are, or their caches expire: %s',
            table,
            failure.reason,
        )


def tell_rest(db: Store) -> None:
    """Tell of the changes of which others could not be told before.

    :raises StoreUnavailable: if that cannot be done now either.
    """
    while _untold:
        table, key = _untold[0]
        db.run(ADD, **_entry(db.sessions.get(), table, key))
        # Another one may have taken its place: to tell twice is harmless.
        with contextlib.suppress(ValueError):
            _untold.remove((table, key))


def telling(
    db: Store,
    table: str,
    key: Mapping[str, Any] | None,
    change: Callable[[], T],
) -> T:
    """Make a change and tell of it, also if nobody knows whether it is made.

    :param key: None, or empty, if nobody needs to be told.
    :param change: returns what is false if nothing was changed.
    """
    if not key:
        return change()
    try:
        made = change()
    except errors.OutcomeUnknown:
        tell(db, table, key)
        raise
    if made:
        tell(db, table, key)
    return made


def revocation(db: Store, key: Mapping[str, Any]) -> list[Step]:
    """Return what tells other datacenters of a revocation.

    :param key: all of it, so that followers can write it.
    """
    connection = db.sessions.get()
    if not are_told(connection):
        return []
    return [(ADD_REVOCATION, _entry(connection, REVOCATION, key))]


def _entry(
    connection: Connection, table: str, key: Mapping[str, Any]
) -> dict[str, Any]:
    now = max(clock.to_micros(clock.utcnow()), latest.beat)
    entry_id = cassandra.util.uuid_from_time(
        now / 10**6, secrets.randbits(47), secrets.randbits(14)
    )
    return ENTRY.dump(
        {
            'datacenter': connection.local_dc,
            'hour': now // _HOUR,
            'id': entry_id,
            'table_name': table,
            'key': key,
        }
    ) | {'ttl': TTL}
