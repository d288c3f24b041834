# SPDX-License-Identifier: Apache-2.0
"""What was deleted lately, for who seeks elsewhere what is not here.

An entity that was deleted here, and is still there in another datacenter, must
not come back from it.  Most leave a marker in their row.  Those that are kept
together in one partition do not: each list would read the markers of a day.
Their deletion is noted here before it is made.

So the datacenter that has deleted one knows of it, whoever else does.  A
deletion can be here before its note is: therefore all datacenters are asked,
and one that does not answer may be the one that knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from keystone_cassandra_token.db import changes, clock, escalation, parts
from keystone_cassandra_token.db.cql import read, write
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store

#: Seconds for which a deletion is known: longer than what was made counts as
#: new (:data:`.escalation.FRESH`).
TTL = 24 * 3600

REMOVAL = Row('table_name', 'id', 'removed_at')

NOTE = write(
    f'INSERT INTO removal ({REMOVAL}) VALUES ({REMOVAL.markers})'
).expiring()
GET = read(
    f'SELECT {REMOVAL} FROM removal'
    ' WHERE table_name = :table_name AND id = :id'
)
escalation.SOUGHT.add(GET)


def note(db: Store, table: str, ids: Iterable[str]) -> None:
    """Note that entities are about to be deleted.

    With one datacenter nobody needs to know.

    :raises StoreUnavailable: if that cannot be done; then they must not be.
    """
    if not changes.are_told(db.sessions.get()):
        return
    now = clock.to_micros(clock.utcnow())
    parts.each(
        db,
        lambda store, each: store.run(
            NOTE, table_name=table, id=each, removed_at=now, ttl=TTL
        ),
        list(ids),
    )


def is_noted(db: Store, table: str, entity_id: str) -> Future[bool]:
    """Ask whether an entity was deleted, or was about to be."""
    asked = db.rows_async(GET, REMOVAL, table_name=table, id=entity_id)
    return asked.then(bool)
