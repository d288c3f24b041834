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
    for each TTL setting: a row that lasts longer is never replaced by one
    that ends sooner).  A check reads a token's subjects in one round trip.
``revocation_log``
    by hour, for :meth:`Revoke.list_events` without a token.

Who is told of it has both.  Of a revocation that ended with 503 either may be
there: then it revokes, or is listed and does not.

Unlike the SQL driver's events these match exactly, also by access token and
by domain scope; events for an audit id, chain or trust ignore
``issued_before``, since these ids are never reused; two equal events are one
in the check; and an event outlives every token it can stop.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from keystone.models import revoke_model
from keystone.revoke.backends import base
from oslo_utils import timeutils

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

#: Attributes that name an event's subject, the first that it has, and the
#: name of the subject's kind.
_SUBJECTS = {
    'audit_id': 'audit',
    'audit_chain_id': 'chain',
    'trust_id': 'trust',
    'consumer_id': 'consumer',
    'user_id': 'user',
    'project_id': 'project',
}
_ATTRIBUTES = (
    *_SUBJECTS,
    'access_token_id',
    'domain_id',
    'domain_scope_id',
    'role_id',
    'expires_at',
)
_OTHER = 'other'

#: Beside an event's attributes, the TTL setting that its row was written
#: with is part of the key.
_KEPT = 'kept'

#: Subjects whose ids are never used again: an event for one revokes whatever
#: the clocks of the servers say.
_TIMELESS = ('audit:', 'chain:', 'trust:')

#: Subjects in one read.
_AT_ONCE = 100

_BUCKET = 3600 * 10**6  # an hour, in microseconds
_SHARDS = 4

REVOCATION = Row(
    'subject', scope=json_text, issued_before=micros, revoked_at=micros
)
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

CHECK = revocation_read(
    f'SELECT {REVOCATION} FROM revocation WHERE subject IN :subjects'
).unpaged()
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
    subjects = [key['subject'] for key in keys]
    found = {
        (row['subject'], row['scope'], row['issued_before'])
        for begin in range(0, len(keys), _AT_ONCE)
        for row in db.rows(
            CHECK, _AS_STORED, subjects=subjects[begin : begin + _AT_ONCE]
        )
    }
    now = clock.to_micros(clock.utcnow()) // 10**6
    missing = [
        {name: key[name] for name in REVOCATION.columns}
        | {'ttl': key['end'] - now}
        for key in keys
        if key['end'] > now
        and (key['subject'], key['scope'], key['issued_before']) not in found
    ]
    db.run_each_async((REVOKE_HERE, row) for row in missing).result()


changes.FETCH[changes.REVOCATION] = _fetch


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
        subject, scope = _address(event)
        stored = {
            'subject': subject,
            'scope': scope,
            'issued_before': event.issued_before,
            'revoked_at': event.revoked_at,
        }
        log_id = uuid.uuid4()
        logged = stored | {
            'id': log_id,
            'bucket': clock.to_micros(event.revoked_at) // _BUCKET,
            'shard': log_id.int % _SHARDS,
        }
        # From its time on an event is needed as long as the youngest token
        # that it stops can be fetched.
        until = max(event.issued_before, event.revoked_at, clock.utcnow())
        seen, current = self.ttl.current_async()
        self._write(stored, logged, until, seen)
        if (longer := current.result()) > seen:
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
        scope = {**stored['scope'], _KEPT: kept}
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
        values = values_of(token)
        found = self.db.rows(CHECK, REVOCATION, subjects=subjects(values))
        issued_at = token['issued_at']
        return [
            _event(row)
            for row in found
            if (
                row['subject'].startswith(_TIMELESS)
                or row['issued_before'] >= issued_at
            )
            and _matches(row, values)
        ]

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
        return [_event(row) for row in rows]


def _address(event: revoke_model.RevokeEvent) -> tuple[str, dict[str, Any]]:
    """Return an event's subject and scope."""
    scope: dict[str, Any] = {
        # Tests and plugins pass integers.
        name: str(getattr(event, name))
        for name in _ATTRIBUTES
        if name != 'expires_at' and getattr(event, name) is not None
    }
    if event.expires_at is not None:
        scope['expires_at'] = clock.to_micros(event.expires_at)
    for attribute, kind in _SUBJECTS.items():
        if attribute in scope:
            return f'{kind}:{scope.pop(attribute)}', scope
    return _OTHER, scope


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a stored event."""
    scope = {
        name: row['scope'][name] for name in row['scope'] if name != _KEPT
    }
    kind, _, value = row['subject'].partition(':')
    for attribute, name in _SUBJECTS.items():
        if name == kind:
            return {attribute: value, **scope}
    return scope


def _event(row: Mapping[str, Any]) -> revoke_model.RevokeEvent:
    attributes = _attributes(row)
    if 'expires_at' in attributes:
        attributes['expires_at'] = clock.from_micros(attributes['expires_at'])
    if 'domain_scope_id' in attributes:
        # The model makes it from these two again.
        attributes['domain_id'] = attributes.pop('domain_scope_id')
    return revoke_model.RevokeEvent(
        issued_before=row['issued_before'],
        revoked_at=row['revoked_at'],
        **attributes,
    )


def values_of(token: Mapping[str, Any]) -> dict[str, set[Any]]:
    """Return what a token has for each attribute of an event."""

    def strings(*names: str) -> set[Any]:
        return {
            str(token[name]) for name in names if token.get(name) is not None
        }

    values = {name: strings(name) for name in _ATTRIBUTES}
    values['user_id'] = strings('user_id', 'trustor_id', 'trustee_id')
    values['domain_id'] = strings('identity_domain_id', 'assignment_domain_id')
    values['domain_scope_id'] = strings('assignment_domain_id')
    values['role_id'] = {str(role) for role in token.get('roles') or ()}
    if token.get('expires_at') is not None:
        values['expires_at'] = {_whole_seconds(token['expires_at'])}
    return values


def subjects(values: Mapping[str, set[Any]]) -> list[str]:
    """Return the keys of the partitions that a check reads.

    :param values: from :func:`values_of`.
    """
    return [
        *(
            f'{kind}:{value}'
            for attribute, kind in _SUBJECTS.items()
            for value in sorted(values[attribute])
        ),
        _OTHER,
    ]


def _whole_seconds(time: datetime.datetime | str) -> int:
    # An event's expiry has whole seconds; a token's may be text.
    moment = timeutils.parse_isotime(time) if isinstance(time, str) else time
    return clock.to_micros(moment.replace(microsecond=0))


def _matches(row: Mapping[str, Any], values: Mapping[str, set[Any]]) -> bool:
    """Return whether a token has all that an event names."""
    return all(
        value in values[name] for name, value in _attributes(row).items()
    )
