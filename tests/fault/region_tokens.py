# SPDX-License-Identifier: Apache-2.0
"""Tokens of which two regions are told, and what is wrong with one there.

Nobody is refused here, so that the two orders of two calls say little: what
was acknowledged is noted, and compared with what a region finds by a plain
model of what events stop.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from keystone import exception
from keystone.common import utils
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from oslo_config import cfg
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import events, provider, revoke
from keystone_cassandra_token.drivers.token.opaque_ids import hashed
from tests.fault.generated import State, World

SECOND = datetime.timedelta(seconds=1)
HOUR = 3600 * SECOND
#: Seconds that are lost between a time to live and what is left of it.
ROUNDED = 2
#: What an event can name, by the names in a token that it is compared with.
COMPARED = {name: (name,) for name in revoke_model.REVOKE_KEYS} | {
    'user_id': ('user_id', 'trustor_id', 'trustee_id'),
    'domain_id': ('identity_domain_id', 'assignment_domain_id'),
    'domain_scope_id': ('assignment_domain_id',),
    'role_id': ('roles',),
}
del COMPARED['issued_before'], COMPARED['revoked_at']
#: Ids that are never used again: what names one of them needs no clock.
TIMELESS = {'audit_id', 'audit_chain_id', 'trust_id'}


class Served(World):
    """A world that makes its drivers, each by the name of an attribute."""

    drivers: ClassVar[Mapping[str, type[base.Driver]]]

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.begin = clock.utcnow().replace(microsecond=0)
        for name, driver in self.drivers.items():
            setattr(self, name, driver())


def named(event: revoke_model.RevokeEvent) -> dict[str, Any]:
    """Return what an event names."""
    values = {name: getattr(event, name) for name in COMPARED}
    return {name: each for name, each in values.items() if each is not None}


def stops(event: revoke_model.RevokeEvent, token: Mapping[str, Any]) -> bool:
    """Return whether an event stops a token: all that it names is its own.

    :param token: as Keystone gives it to a driver.
    """
    names = named(event)
    for name, value in names.items():
        own = [token[each] for each in COMPARED[name]]
        if value not in (own[0] if name == 'role_id' else own):
            return False
    return bool(
        TIMELESS & {*names} or event.issued_before >= token['issued_at']
    )


def validated(call: Callable[[str], Any], made: str) -> Any:
    """Return what a token or receipt has, None where there is none."""
    try:
        return call(made)
    except (exception.TokenNotFound, exception.ReceiptNotFound):
        return None


def rows_of(store: Store, text: str, *values: object) -> list[dict[str, Any]]:
    """Return what a node of a region finds in a keyspace, given as ``{}``."""
    connection = store.sessions.get()
    text = text.format(connection.keyspace)
    return [*connection.session.execute(text, values, timeout=60)]


def row_lasts(store: Store, table: str, id_hash: bytes) -> int:
    """Return for how long a token or receipt is there yet, in seconds."""
    text = f'SELECT TTL(user_id) AS left FROM {{}}.{table} WHERE id_hash = %s'
    return max(
        (row['left'] for row in rows_of(store, text, id_hash)), default=0
    )


@dataclasses.dataclass(frozen=True)
class Issued:
    """A token that was acknowledged.

    :ivar values: what its validation returns.
    :ivar checked: what is compared with events.
    """

    label: str
    id: str
    values: tuple[Any, ...]
    checked: Mapping[str, Any]


#: What tokens have, as labels of ids.
TOKENS: dict[str, dict[str, str]] = {
    'plain': {
        'user_id': 'user',
        'project_id': 'project',
        'identity_domain_id': 'domain',
        'assignment_domain_id': 'domain',
        'role': 'role',
    },
    'strange': {
        'user_id': 'stranger',
        'project_id': 'far',
        'identity_domain_id': 'abroad',
        'assignment_domain_id': 'abroad',
        'role': 'other role',
    },
    'trusting': {
        'user_id': 'trustee',
        'project_id': 'far',
        'identity_domain_id': 'abroad',
        'assignment_domain_id': 'abroad',
        'role': 'role',
        'trust_id': 'trust',
        'trustor_id': 'user',
        'trustee_id': 'trustee',
    },
    'authorized': {
        'user_id': 'stranger',
        'project_id': 'project',
        'identity_domain_id': 'abroad',
        'assignment_domain_id': 'domain',
        'role': 'other role',
        'consumer_id': 'consumer',
        'access_token_id': 'access',
    },
    'ruling': {
        'user_id': 'ruler',
        'domain_id': 'domain',
        'identity_domain_id': 'abroad',
        'assignment_domain_id': 'domain',
        'role': 'other role',
    },
}


class SomeTokens(Served):
    """Tokens that were there, and those that operations issue.

    :ivar issued: what was acknowledged.
    :ivar tried: events that may be there; ``told`` are those that must.
    """

    drivers: ClassVar[Mapping[str, type[base.Driver]]] = {
        'tokens': provider.Provider,
        'revocations': revoke.Revoke,
    }
    there: ClassVar[tuple[str, ...]] = ()
    tokens: provider.Provider
    revocations: revoke.Revoke

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        # No token here is issued before the one or after the other, so that
        # nobody's clock decides what comes first.
        self.before, self.after = self.begin - HOUR, self.begin + HOUR / 12
        self.issued: list[Issued] = []
        self.tried: list[revoke_model.RevokeEvent] = []
        self.told: list[revoke_model.RevokeEvent] = []
        for number, label in enumerate(self.there):
            # No two have one expiry, nor what is issued later.
            self.issue(
                label,
                TOKENS[label],
                audit_id=f'audit of {label}',
                life=HOUR / 2 + number * 60 * SECOND,
            )

    def issue(
        self,
        label: str,
        has: Mapping[str, str],
        *,
        audit_id: str | None = None,
        parent: str | None = None,
        life: datetime.timedelta = HOUR,
    ) -> None:
        model = TokenModel()
        model.methods = ['password', label]
        model.audit_id = self.id(audit_id) if audit_id else uuid.uuid4().hex
        model.parent_audit_id = parent and self.id(parent)
        own = {name: self.id(each) for name, each in has.items()}
        for name in ('user', 'project', 'domain', 'trust', 'access_token'):
            setattr(model, f'{name}_id', own.get(f'{name}_id'))
        ends = clock.utcnow() + life
        model.expires_at = utils.isotime(ends, subsecond=True)
        token_id, issued_at = self.tokens.generate_id_and_issued_at(model)
        checked = revoke_model.blank_token_data(parsed(issued_at)) | {
            'audit_id': model.audit_id,
            'audit_chain_id': model.parent_audit_id,
            'expires_at': ends.replace(microsecond=0),
            'roles': [own.pop('role')],
        }
        values = (
            *(model.user_id, model.methods, model.audit_ids, None),
            *(model.domain_id, model.project_id, model.trust_id),
            *(None, None, None, model.access_token_id, None, None),
            *(issued_at, model.expires_at),
        )
        self.issued.append(Issued(label, token_id, values, checked | own))

    def revoke(
        self, before: datetime.datetime | None = None, **names: str
    ) -> None:
        """Revoke what all of some labels name."""
        self.note_revoked(
            revoke_model.RevokeEvent(
                issued_before=before or self.after,
                **{name: self.id(label) for name, label in names.items()},
            )
        )

    def note_revoked(self, event: revoke_model.RevokeEvent) -> None:
        self.tried.append(event)
        self.revocations.revoke(event)
        self.told.append(event)

    def expiry(self, label: str) -> datetime.datetime:
        """Return when a token that was there expires."""
        (ends,) = (
            each.checked['expires_at']
            for each in self.issued
            if each.label == label
        )
        return ends

    def is_revoked(self, token: Issued) -> bool:
        """Return what Keystone says of a token."""
        events = self.revocations.list_events(token=token.checked)
        return bool(revoke_model.is_revoked(events, token.checked))

    def state(self) -> State:
        seen: dict[str, list[str]] = {}
        for each in [*self.issued]:
            values = validated(self.tokens.validate_token, each.id)
            said = 'valid' if values else 'missing'
            if self.is_revoked(each):
                said = 'revoked'
            seen.setdefault(each.label, []).append(said)
        return {label: sorted(said) for label, said in seen.items()}

    def wrong(self) -> list[str]:
        """What was acknowledged, and is not so in this region."""
        return [
            f'{each.label} {wrong}'
            for each in [*self.issued]
            for wrong in self.wrong_of(each)
        ]

    def wrong_of(self, token: Issued) -> Iterator[str]:
        values = validated(self.tokens.validate_token, token.id)
        if values is None:
            yield 'is missing'
        elif values != token.values:
            yield 'has what was not given'
        told = [each for each in [*self.told] if stops(each, token.checked)]
        perhaps = any(stops(each, token.checked) for each in [*self.tried])
        is_revoked = self.is_revoked(token)
        if told and not is_revoked:
            yield 'is accepted, though it was revoked'
        if is_revoked and not perhaps:
            yield 'is refused, though nobody revoked it'
        left, stays = self.lasts(token.id), self.stays(token)
        if left + ROUNDED < needed(token, self.tokens.conf):
            yield 'ends too soon'
        for event in told:
            if stays(event) < left:
                yield f'lasts longer than an event of {self.names(event)}'

    def lasts(self, token_id: str) -> int:
        """Return for how long a token is there yet, in seconds."""
        return row_lasts(
            self.store, '"token"', hashed(self.tokens.conf, token_id)
        )

    def stays(
        self, token: Issued
    ) -> Callable[[revoke_model.RevokeEvent], int]:
        """Return what says for how long an event is there yet, in seconds.

        A row of the event is one that tells all that it names.
        """
        subjects = events.subjects(events.values_of(token.checked))
        rows = rows_of(
            self.store,
            'SELECT subject, scope, TTL(issued_before) AS left'
            ' FROM {}.revocation'
            f' WHERE subject IN ({", ".join(["%s"] * len(subjects))})',
            *subjects,
        )

        def of(event: revoke_model.RevokeEvent) -> int:
            ids = [
                each for each in named(event).values() if isinstance(each, str)
            ]
            return max(
                (
                    row['left']
                    for row in rows
                    if all(
                        each in row['subject'] + row['scope'] for each in ids
                    )
                ),
                default=0,
            )

        return of

    def names(self, event: revoke_model.RevokeEvent) -> str:
        return ', '.join(sorted(named(event)))


def needed(token: Issued, conf: cfg.ConfigOpts) -> float:
    """Return for how long a token must be there yet, in seconds."""
    left = parsed(token.values[-1]) - clock.utcnow()
    return left.total_seconds() + conf.token.allow_expired_window


def parsed(text: str) -> datetime.datetime:
    moment = timeutils.normalize_time(timeutils.parse_isotime(text))
    assert isinstance(moment, datetime.datetime)
    return moment
