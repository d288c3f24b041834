# SPDX-License-Identifier: Apache-2.0
"""Grants: who has which role on what, and their indexes.

``grant_by_target`` is the source of truth, made and removed as
``tables.association`` says.  What a user and its groups have on a project is
one read of one partition.  ``grant_by_actor`` and ``grant_by_role`` list by
the other ends::

    add:     index rows -> grant -> index rows settled
    remove:  index rows unsettled -> grant -> index rows removed

A settled row is listed without a further read, so a listing costs what it
returns; for an unsettled row the base row is read.  A crash leaves unsettled
rows, never a settled one without a grant.  For that, each of these writes has
its own timestamp, computed from the incarnation of the grant: a creator that
settles late, or a server whose clock lags, changes nothing.

Two regions that give one grant at once settle the rows of two incarnations, of
which one loses.  So where a key has several rows the base row is read, and a
removal unsettles all of them.
"""

from __future__ import annotations

import collections
import enum
import itertools
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

from keystone_cassandra_token.db import changes, clock, parts
from keystone_cassandra_token.db.cql import (
    Statement,
    escalated_read,
    read,
    scan,
)
from keystone_cassandra_token.db.rows import Row, boolean, text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.association import Association
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.index import (
    ALL_SHARDS,
    DerivedTable,
    shard_of,
)

Grant = dict[str, Any]

KEY = Row(
    target_id=text(64),
    actor_id=text(64),
    type=text(64),
    inherited=boolean,
    role_id=text(64),
)
_KEY = tuple(KEY.columns)
GRANTS = Association('grant_by_target', KEY)
GRANT = GRANTS.row
BY_ACTOR = GRANT | Row('settled')
BY_ROLE = GRANT | Row('shard', 'settled')

#: Conditional deletions in one batch.
_AT_ONCE = 50

LIST_OF_ACTORS_ON_TARGET = read(
    f'SELECT {GRANT} FROM grant_by_target'
    ' WHERE target_id = :target_id AND actor_id IN :actor_ids'
)
# Keystone lists all grants for an administrator.
LIST = scan(f'SELECT {GRANT} FROM grant_by_target')

LIST_OF_ACTOR = read(
    f'SELECT {BY_ACTOR} FROM grant_by_actor WHERE actor_id = :actor_id'
)
LIST_OF_GRANT = read(
    f'SELECT {BY_ACTOR} FROM grant_by_actor WHERE actor_id = :actor_id'
    ' AND target_id = :target_id AND type = :type AND inherited = :inherited'
    ' AND role_id = :role_id'
)
LIST_OF_ROLE = read(
    f'SELECT {BY_ROLE} FROM grant_by_role'
    ' WHERE role_id = :role_id AND shard IN :shards'
)
ACTORS = DerivedTable(
    'grant_by_actor',
    BY_ACTOR,
    (*_KEY, 'incarnation'),
    lambda grant: [_listed(BY_ACTOR, grant)],
    ignored=['settled'],
)
INSERT_BY_ACTOR, DELETE_BY_ACTOR = ACTORS.put, ACTORS.delete_older
ROLES = DerivedTable(
    'grant_by_role',
    BY_ROLE,
    (*_KEY, 'shard', 'incarnation'),
    lambda grant: [_listed(BY_ROLE, grant)],
    ignored=['settled'],
)
INSERT_BY_ROLE, DELETE_BY_ROLE = ROLES.put, ROLES.delete_older


class Step(enum.IntEnum):
    """The states of the index rows of a grant, in this order."""

    ADDED = 0
    SETTLED = 1
    UNSETTLED = 2
    REMOVED = 3


def _listed(row: Row, grant: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a grant in an index."""
    values = {
        **grant,
        'shard': shard_of(grant['actor_id']),
        'settled': True,
    }
    return {name: values[name] for name in row.columns}


def _unsettled(
    grant: Mapping[str, Any], table: DerivedTable
) -> list[tuple[Statement, Mapping[str, Any]]]:
    # With a timestamp that no removal of the grant has: so never settled.
    written_at = clock.to_micros(clock.utcnow())
    row = {**_listed(table.row, grant), 'settled': False}
    return [(table.put, {**row, 'written_at': written_at})]


GRANT_DERIVED = DerivedTables(
    'grant_by_target',
    GRANT,
    key=_KEY,
    tables=[ACTORS, ROLES],
    timestamp_of=lambda grant: (
        clock.micros_of(grant['incarnation']) + Step.SETTLED
    ),
    rewrite=_unsettled,
)


LIST_OF_ACTOR_EVERYWHERE = escalated_read(LIST_OF_ACTOR.cql)


def _fetch(db: Store, keys: Sequence[changes.Key]) -> None:
    """Make changes of grants readable here, with their settled index rows."""
    GRANTS.fetch(db, keys)
    actors = dict.fromkeys(
        key['actor_id'] for key in keys if 'actor_id' in key
    )
    db.many(
        LIST_OF_ACTOR_EVERYWHERE, BY_ACTOR, ({'actor_id': x} for x in actors)
    )


changes.FETCH['grant_by_target'] = _fetch


def add(db: Store, **key: Any) -> bool:
    """Grant a role; return whether it was not granted before.

    :param key: ``target_id``, ``actor_id``, ``type``, ``inherited`` and
        ``role_id``.
    :raises OutcomeUnknown: if it cannot be found out whether that was done;
        it is safe to retry.
    """
    new = {**key, 'incarnation': clock.incarnation()}
    write_index(db, [new], Step.ADDED)
    granted = GRANTS.create(db, new)
    if granted:
        write_index(db, [new], Step.SETTLED)
        return True
    write_index(db, [new], Step.REMOVED)
    # For who granted it before, and perhaps died on the way here.
    there = key | {'incarnation': granted.row['incarnation']}
    write_index(db, [there], Step.SETTLED)
    return False


def on_target(
    db: Store, target_id: str, actor_ids: Collection[str] | None = None
) -> list[Grant]:
    """Return the grants on a target, those of some actors or all.

    One read of one partition.
    """
    if actor_ids is None:
        return GRANTS.of(db, target_id)
    return db.rows(
        LIST_OF_ACTORS_ON_TARGET,
        GRANT,
        target_id=target_id,
        actor_ids=list(actor_ids),
    )


def on_targets(
    db: Store,
    target_ids: Iterable[str],
    actor_ids: Collection[str] | None = None,
) -> Iterator[Grant]:
    """Yield the grants on several targets, as :func:`on_target`."""
    targets = dict.fromkeys(target_ids)
    if actor_ids is None:
        found = db.many(
            GRANTS.list, GRANT, ({'target_id': each} for each in targets)
        )
    else:
        actors = list(dict.fromkeys(actor_ids))
        found = db.many(
            LIST_OF_ACTORS_ON_TARGET,
            GRANT,
            ({'target_id': each, 'actor_ids': actors} for each in targets),
        )
    return itertools.chain.from_iterable(found)


def of_actors(db: Store, actor_ids: Iterable[str]) -> Iterator[Grant]:
    """Yield all grants of some users or groups."""
    keys = ({'actor_id': each} for each in dict.fromkeys(actor_ids))
    for listed in db.many(LIST_OF_ACTOR, BY_ACTOR, keys):
        yield from _sure(db, listed)


def of_role(db: Store, role_id: str) -> Iterator[Grant]:
    """Yield all grants of a role."""
    listed = db.iterate(
        LIST_OF_ROLE, BY_ROLE, role_id=role_id, shards=ALL_SHARDS
    )
    while some := list(itertools.islice(listed, 1000)):
        yield from _sure(db, some)


def everything(db: Store) -> Iterator[Grant]:
    """Yield all grants."""
    return db.iterate(LIST, GRANT)


def remove(db: Store, grant: Grant) -> bool:
    """End a grant as it was found; return whether it still was there.

    :raises OutcomeUnknown: if that cannot be found out; it is safe to retry.
    """
    _unsettle(db, [grant])
    gone = GRANTS.discard(db, grant)
    write_index(db, [grant], Step.REMOVED)
    return gone


def remove_all(db: Store, found: Iterable[Grant]) -> int:
    """End several grants; return how many of them there were.

    Those of one target go in batches, so that a project is soon without, and
    different targets side by side.
    """
    by_target = collections.defaultdict(list)
    for grant in found:
        by_target[grant['target_id']].append(grant)
    parts.each(db, _remove_of_target, by_target.values())
    return sum(map(len, by_target.values()))


def _remove_of_target(db: Store, grants: list[Grant]) -> None:
    for begin in range(0, len(grants), _AT_ONCE):
        some = grants[begin : begin + _AT_ONCE]
        _unsettle(db, some)
        if not GRANTS.delete_together(db, some):
            # One was removed, or granted again: look at each.
            for grant in some:
                GRANTS.discard(db, grant)
        write_index(db, some, Step.REMOVED)


def _unsettle(db: Store, grants: list[Grant]) -> None:
    """Unsettle the index rows of grants, of all their incarnations.

    One that another region has given is not removed: it may be the one that
    is left.
    """
    listed = db.many(LIST_OF_GRANT, BY_ACTOR, map(GRANTS.key, grants))
    settled = {
        row['incarnation']: row
        for rows in listed
        for row in rows
        if row['settled']
    }
    own = {grant['incarnation']: grant for grant in grants}
    write_index(db, {**settled, **own}.values(), Step.UNSETTLED)


def _sure(db: Store, listed: list[Grant]) -> Iterator[Grant]:
    """Yield those of an index's rows that are grants."""
    rows_of = collections.Counter(map(_key_of, listed))
    unsure = {
        row['incarnation']: row
        for row in listed
        if not row['settled'] or rows_of[_key_of(row)] > 1
    }
    keys = map(GRANTS.key, unsure.values())
    found = {
        there['incarnation']
        for rows in (db.many(GRANTS.get, GRANT, keys) if unsure else ())
        for there in rows
    }
    for row in listed:
        if row['incarnation'] in found or row['incarnation'] not in unsure:
            yield row


def _key_of(row: Grant) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def write_index(db: Store, grants: Iterable[Grant], step: Step) -> None:
    statements: list[tuple[Statement, Mapping[str, Any]]] = []
    for grant in grants:
        incarnation = grant['incarnation']
        key = GRANTS.key(grant) | {
            'incarnation': incarnation,
            'written_at': clock.micros_of(incarnation) + step,
        }
        by_role = key | {'shard': shard_of(grant['actor_id'])}
        if step is Step.REMOVED:
            statements += [(DELETE_BY_ACTOR, key), (DELETE_BY_ROLE, by_role)]
        else:
            settled = {'settled': step is Step.SETTLED}
            statements += [
                (INSERT_BY_ACTOR, key | settled),
                (INSERT_BY_ROLE, by_role | settled),
            ]
    db.run_each(*statements)
