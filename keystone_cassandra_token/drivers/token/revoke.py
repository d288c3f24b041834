# SPDX-License-Identifier: Apache-2.0
"""``keystone.revoke`` on Cassandra.

An event is written to two tables, together and each by itself:

``revocation``
    by subject: the first of audit id, audit chain, trust, consumer, user and
    project that the event has names its partition; an event with none of
    them goes to the partition ``other``.  The rest of its attributes is the
    clustering key ``scope``.  The value is ``issued_before``, and also the
    write timestamp: the later of two events for the same wins in whatever
    order they arrive, and a user revoked a thousand times is one row (one
    for each TTL setting and machine, see :class:`.events.Kept`).  A check
    reads a token's subjects in one round trip.
``revocation_log``
    by hour, for :meth:`Revoke.list_events` without a token.

Who is told of it has both.  Of a revocation that ended with 503 either may be
there: then it revokes, or is listed and does not.

Unlike the SQL driver's events these match exactly, also by access token and
by domain scope; events for an audit id, chain or trust ignore
``issued_before``, since these ids are never reused; others need not rely on
clocks either, see :mod:`.seen`; two equal events are one in the check; and an
event outlives every token it can stop.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from keystone.models import revoke_model
from keystone.revoke.backends import base

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import changes, clock, metrics
from keystone_cassandra_token.db.cql import (
    revocation_read,
    revocation_write,
    write,
)
from keystone_cassandra_token.db.rows import Row, json_text, micros
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.token import events, seen
from keystone_cassandra_token.drivers.token.events import CHECK, REVOCATION

#: Subjects in one read.
_AT_ONCE = 100

_BUCKET = 3600 * 10**6  # an hour, in microseconds
_SHARDS = 4

_AS_STORED = Row(*REVOCATION.columns)
LOGGED = Row(
    'bucket',
    'shard',
    'id',
    'subject',
    scope=json_text,
    issued_before=micros,
    revoked_at=micros,
)

REVOKE = revocation_write(
    f'INSERT INTO revocation ({REVOCATION}) VALUES ({REVOCATION.markers})'
    ' USING TTL :ttl AND TIMESTAMP :issued_before'
)
#: Of another datacenter, whose own servers tell all others.
REVOKE_HERE = write(REVOKE.cql)
LOG_EVENT = revocation_write(
    f'INSERT INTO revocation_log ({LOGGED}) VALUES ({LOGGED.markers})'
).expiring()
GET_SINCE = revocation_read(
    f'SELECT {LOGGED} FROM revocation_log'
    ' WHERE bucket = :bucket AND shard = :shard AND revoked_at > :since'
)


def _fetch(db: Store, keys: Sequence[Mapping[str, Any]]) -> None:
    """Write the revocations of another datacenter that are not yet here.

    Each with the timestamp and the end that it has there: to write it twice
    is harmless.
    """
    found = {_identity(row) for row in _stored(db, keys, _AS_STORED)}
    now = clock.to_micros(clock.utcnow()) // 10**6
    missing = [
        # Servers of a former version do not tell of all columns.
        {name: key.get(name) for name in REVOCATION.columns}
        | {'ttl': key['end'] - now}
        for key in keys
        if key['end'] > now and _identity(key) not in found
    ]
    db.run_each_async((REVOKE_HERE, row) for row in missing).result()


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = 'subject', 'scope', 'issued_before', 'made_at'
    return tuple(row.get(name) for name in names)


def _stored(
    db: Store, keys: Sequence[Mapping[str, Any]], columns: Row
) -> list[dict[str, Any]]:
    """Return what there is here of the subjects of some revocations."""
    subjects = [key['subject'] for key in keys]
    return [
        row
        for begin in range(0, len(keys), _AT_ONCE)
        for row in db.rows(
            CHECK, columns, subjects=subjects[begin : begin + _AT_ONCE]
        )
    ]


def _repeat(db: Store, keys: Sequence[Mapping[str, Any]]) -> None:
    """Write revocations that came late again, with the time of arrival.

    Meanwhile this datacenter has let in whom they should have stopped, with
    tokens that are younger than they are.  Once is enough, by whichever
    process: others are told of each, and would tell of it again.
    """
    if not seen.is_used(db.conf):
        return  # it would stop tokens that have seen them
    keys = [key for key in keys if not events.is_timeless(key['subject'])]
    if not keys:
        return
    repeated: dict[str, datetime.datetime] = {}
    for row in _stored(db, keys, REVOCATION):
        if events.kept(row).first is not None:
            this = seen.digest(row)
            before = repeated.get(this, row['issued_before'])
            repeated[this] = max(before, row['issued_before'])
    now = clock.to_micros(clock.utcnow())
    ttl = revocation_ttl.RevocationTTL(db).current()
    again = []
    for key in keys:
        row = REVOCATION.load({'made_at': None} | dict(key))
        if repeated.get(seen.digest(row), clock.EPOCH) > row['issued_before']:
            continue
        kept = events.kept(row)
        first = kept.first or key['issued_before']
        late = dataclasses.replace(kept, ttl=ttl, first=first)
        again.append(
            {
                'subject': key['subject'],
                'scope': json_text.encode(events.keyed(row['scope'], late)),
                'issued_before': now,
                'revoked_at': now,
                'made_at': row['made_at'],
            }
        )
    db.run_each(*((REVOKE_HERE, each | {'ttl': ttl}) for each in again))
    end = now // 10**6 + ttl
    for each in again:
        changes.tell(db, changes.REVOCATION, each | {'end': end})


changes.FETCH[changes.REVOCATION] = _fetch
changes.LATE[changes.REVOCATION] = _repeat


class Revoke(Driver, base.RevokeDriverBase):
    """Revocation events in Cassandra."""

    def __init__(self) -> None:
        super().__init__()
        self.ttl = revocation_ttl.RevocationTTL(self.db)

    def list_events(
        self,
        last_fetch: datetime.datetime | None = None,
        token: Mapping[str, Any] | None = None,
    ) -> list[revoke_model.RevokeEvent]:
        if token:
            return self._list_for_token(token)
        return self._list_since(last_fetch)

    def revoke(self, event: revoke_model.RevokeEvent) -> None:
        self._ensure_ttl()
        subject, scope = events.address(event)
        stored = {
            'subject': subject,
            'scope': scope,
            'issued_before': event.issued_before,
            'revoked_at': event.revoked_at,
            'made_at': clock.to_micros(clock.utcnow()),
        }
        log_id = uuid.uuid4()
        logged = {
            **{name: stored[name] for name in stored if name != 'made_at'},
            'id': log_id,
            'bucket': clock.to_micros(event.revoked_at) // _BUCKET,
            'shard': log_id.int % _SHARDS,
        }
        # From its time on an event is needed as long as the youngest token
        # that it stops can be fetched.
        until = max(event.issued_before, event.revoked_at, clock.utcnow())
        known, current = self.ttl.current_async()
        self._write(stored, logged, until, known)
        if (longer := current.result()) > known:
            self._write(stored, logged, until, longer)
        metrics.count(metrics.REVOCATIONS)

    def _write(
        self,
        stored: Mapping[str, Any],
        logged: Mapping[str, Any],
        until: datetime.datetime,
        kept: int,
    ) -> None:
        ttl = clock.ttl_until(until, kept)
        # Written before the present TTL is known, and perhaps with too short
        # a one: under a key of its own it cannot take the place of a row
        # that lasts longer, should the process die before it writes again.
        own = events.Kept(kept, events.here())
        scope = events.keyed(stored['scope'], own)
        row = REVOCATION.dump({**stored, 'scope': scope})
        end = clock.to_micros(clock.utcnow()) // 10**6 + ttl
        self.db.run_all(
            (REVOKE, {'ttl': ttl} | row),
            (LOG_EVENT, {'ttl': ttl} | LOGGED.dump(logged)),
            *changes.revocation(self.db, row | {'end': end}),
        )

    def _ensure_ttl(self) -> None:
        # Where another provider issues the tokens (Fernet), this is the
        # first that this package hears of their lifetime.
        self.ttl.ensure(revocation_ttl.needed(self.conf))

    def _list_for_token(
        self, token: Mapping[str, Any]
    ) -> list[revoke_model.RevokeEvent]:
        self._ensure_ttl()
        values = events.values_of(token)
        subjects = events.subjects(values)
        found = self.db.rows(CHECK, REVOCATION, subjects=subjects)
        if seen.is_used(self.conf):
            seen.were_found(subjects, found)
        rows = [row for row in found if events.matches(row, values)]
        stop = [row for row in rows if events.is_timeless(row['subject'])]
        limit = token['issued_at'] - seen.slack(self.conf)
        by_clock = [
            row
            for row in rows
            if not events.is_timeless(row['subject'])
            and row['issued_before'] >= limit
        ]
        if by_clock:
            stop += seen.without(self.db, token, by_clock)
        return [events.loaded(row) for row in stop]

    def _list_since(
        self, last_fetch: datetime.datetime | None
    ) -> list[revoke_model.RevokeEvent]:
        now = clock.to_micros(clock.utcnow())
        since = now - self.ttl.current() * 10**6 - _BUCKET
        if last_fetch is not None:
            since = max(since, clock.to_micros(last_fetch))
        buckets = range(since // _BUCKET, now // _BUCKET + 2)
        slices = self.db.many(
            GET_SINCE,
            LOGGED,
            (
                {'bucket': bucket, 'shard': shard, 'since': since}
                for bucket in buckets
                for shard in range(_SHARDS)
            ),
        )
        rows = [row for rows in slices for row in rows]
        rows.sort(key=lambda row: (row['revoked_at'], row['id']))
        return [events.loaded(row) for row in rows]
