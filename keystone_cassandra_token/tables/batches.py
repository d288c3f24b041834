# SPDX-License-Identifier: Apache-2.0
"""Entities of one partition, changed or deleted in one conditional batch.

Where all regions agree on each change, one after the other would take a round
trip between them for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keystone_cassandra_token.db import changes, errors
from keystone_cassandra_token.db.sender import Step
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables import removals
from keystone_cassandra_token.tables.entity import Entity

#: Entities that are deleted in one batch.
AT_ONCE = 50


def all_or_none(
    db: Store,
    entity: Entity,
    steps: Sequence[Step],
) -> bool:
    """Change or delete several entities; return whether that was done.

    :param steps: for each :attr:`Entity.update` with ``id``, ``seen`` and the
        new ``incarnation``, or what :meth:`Entity.deletion` returns.
    :raises OutcomeUnknown: if it cannot be found out.
    """
    statement, first = steps[0]
    removes = statement in (entity.delete, entity.bury)
    if removes and entity.is_noted:
        removals.note(db, entity.table, (key['id'] for _, key in steps))

    def applied(row: Mapping[str, Any] | None) -> bool | None:
        now = row['incarnation'] if row and entity.exists(row) else None
        if now == first['seen']:
            return None
        return bool(now == (None if removes else first['incarnation']))

    # One of them tells of all, also other datacenters: they are in one
    # partition.
    return changes.telling(
        db,
        entity.table,
        entity.news(first),
        lambda: bool(
            db.cas_batch_settled(
                *steps,
                settle=entity.settle,
                applied=applied,
                rows=[first],
            )
        ),
    )


def discard_all(
    db: Store, entity: Entity, found: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Delete these incarnations of entities; yield those that were there.

    :raises OutcomeUnknown: if it cannot be found out; it is safe to retry.
    """
    for begin in range(0, len(found), AT_ONCE):
        some = found[begin : begin + AT_ONCE]
        try:
            gone = all_or_none(db, entity, list(map(entity.deletion, some)))
        except errors.OutcomeUnknown:
            gone = False  # to delete what may be gone is no harm
        if gone:
            yield from some
        else:
            # One was deleted, or has changed: look at each.
            yield from (each for each in some if entity.discard(db, each))
