# SPDX-License-Identifier: Apache-2.0
"""Revocation events as they are stored, and which tokens each one stops."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from keystone.models import revoke_model
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.cql import escalated_scan, revocation_read
from keystone_cassandra_token.db.rows import Row, json_text, micros

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
OTHER = 'other'

#: Beside an event's attributes, the key has what tells its row from others of
#: the same event.  Servers of all versions leave it alone.
_KEPT = 'kept'

#: Subjects whose ids are never used again: an event for one revokes whatever
#: the clocks of the servers say.
_TIMELESS = ('audit:', 'chain:', 'trust:')

REVOCATION = Row(
    'subject',
    # Two of one second have one time, and the same timestamp: of two values
    # of ``made_at`` the larger one stays.
    'made_at',
    scope=json_text,
    issued_before=micros,
    revoked_at=micros,
)

CHECK = revocation_read(
    f'SELECT {REVOCATION} FROM revocation WHERE subject IN :subjects'
).unpaged()
#: All there are, brought to each datacenter that lacks some: Cassandra repairs
#: what it reads before it answers.
BRING_ALL = escalated_scan(f'SELECT {REVOCATION} FROM revocation')


def is_timeless(subject: str) -> bool:
    """Return whether events of a subject stop tokens of any time."""
    return subject.startswith(_TIMELESS)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What tells a row from others of the same event.

    :ivar ttl: the setting in seconds that it was written with.  A row that
        lasts longer is never replaced by one that ends sooner.
    :ivar by: the machine and clock that it is from.  Clocks differ: what is
        later by one must not be taken for earlier than what another one had.
    :ivar first: when it was made, in microseconds, if it came late and is
        written again; else None.
    """

    ttl: int
    by: str = ''
    first: int | None = None


def here() -> str:
    """Return what tells this machine from others; not its name.

    And from itself, once its clock was set: what it revokes after its clock
    was set back is no earlier than what it has revoked before.
    """
    began = round(time.time() - time.monotonic())
    name = f'{socket.gethostname()} {began}'.encode()
    return hashlib.blake2s(name, digest_size=4).hexdigest()


def keyed(scope: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """Return the key of a row of an event."""
    known = {
        name: value
        for name, value in dataclasses.asdict(kept).items()
        if value is not None
    }
    return {**scope, _KEPT: known}


def kept(row: Mapping[str, Any]) -> Kept:
    """Return what tells a row from others; former versions kept the TTL."""
    found = row['scope'].get(_KEPT, 0)
    if not isinstance(found, dict):
        return Kept(found)
    # A later version may keep more.
    names = [field.name for field in dataclasses.fields(Kept)]
    return Kept(**{name: found[name] for name in names if name in found})


def address(event: revoke_model.RevokeEvent) -> tuple[str, dict[str, Any]]:
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
    return OTHER, scope


def named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stored event names."""
    scope = {
        name: row['scope'][name] for name in row['scope'] if name != _KEPT
    }
    kind, _, value = row['subject'].partition(':')
    for attribute, name in _SUBJECTS.items():
        if name == kind:
            return {attribute: value, **scope}
    return scope


def loaded(row: Mapping[str, Any]) -> revoke_model.RevokeEvent:
    """Return a stored event as Keystone knows it."""
    attributes = named(row)
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
        OTHER,
    ]


def _whole_seconds(time: datetime.datetime | str) -> int:
    # An event's expiry has whole seconds; a token's may be text.
    moment = timeutils.parse_isotime(time) if isinstance(time, str) else time
    return clock.to_micros(moment.replace(microsecond=0))


def matches(row: Mapping[str, Any], values: Mapping[str, set[Any]]) -> bool:
    """Return whether a token has all that an event names."""
    return all(value in values[name] for name, value in named(row).items())
