# SPDX-License-Identifier: Apache-2.0
"""``keystone.trust`` on Cassandra.

``trust`` is the source of truth: its columns are written once, but for
``deleted_at``, which is set when the trust is deleted and never unset, so that
deletion needs no clock.  ``trust_use`` counts the uses that a limited trust
has left, by conditional writes alone.  The ``trust_by_*`` tables hold ids.
``trust_claim`` keeps two equal trusts apart.

On create: claim, use counter, index rows, trust, claim renewed.  A crash
leaves at most rows without a trust: readers skip them, and what belongs to a
trust that expires expires with it.  On flush: the trust first, index rows
last.

As with the SQL driver a deleted trust stays until it is flushed or expires,
and an equal one cannot be made before.  Two equal trusts made in two
datacenters at the same moment may both succeed.
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from keystone import exception
from keystone.i18n import _
from keystone.trust.backends import base
from oslo_log import log
from oslo_utils import timeutils

from keystone_cassandra_token.compat import extras
from keystone_cassandra_token.compat.conflicts import duplicate, logged
from keystone_cassandra_token.db import clock, errors, escalation, metrics
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import (
    escalated_read,
    lwt_global,
    lwt_global_read,
    read,
    scan,
    write,
)
from keystone_cassandra_token.db.rows import (
    Row,
    boolean,
    json_text,
    micros,
    plain,
    text,
    text_list,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables import unique
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.unique import ClaimSpec, Key, NameTaken

LOG = log.getLogger(__name__)

#: A deletion mark outlives its trust by this many seconds, whatever the
#: clocks of the servers that wrote the two.
MARGIN = 3600

#: A lost race for a use tells how many are left, so each attempt but a last
#: one is a use that somebody else got.
_ATTEMPTS = 32

#: What Keystone names of a trust, but for the uses that are left.
_REF = Row(
    id=text(64),
    trustor_user_id=text(64, required=True),
    trustee_user_id=text(64, required=True),
    project_id=text(64),
    impersonation=boolean(required=True),
    expires_at=micros,
    deleted_at=micros,
    redelegated_trust_id=text(64),
    redelegation_count=plain,
    extra=json_text,
)
TRUST = _REF | Row('uses', roles=text_list)
USE = Row('id', 'remaining', 'attempt')

CLAIMS = unique.Claims(
    'trust_claim',
    'trustor_user_id',
    'trustee_user_id',
    'project_id',
    'impersonation',
    'expires_at',
    operation=Operation.LWT_LOCAL,
)

GET = read(f'SELECT {TRUST} FROM trust WHERE id = :id')
GET_WRITTEN = read(
    GET.cql.replace(' FROM', ', WRITETIME(trustor_user_id) AS written FROM')
)
GET_EVERYWHERE = escalated_read(f'SELECT {TRUST} FROM trust WHERE id = :id')
# Keystone lists all trusts for an administrator, and flushes by a filter.
LIST = scan(f'SELECT {TRUST} FROM trust')
INSERT = write(f'INSERT INTO trust ({TRUST}) VALUES ({TRUST.markers})')
INSERT_EXPIRING = INSERT.expiring()
MARK_DELETED = write(
    'UPDATE trust SET deleted_at = :deleted_at WHERE id = :id'
)
MARK_DELETED_EXPIRING = MARK_DELETED.expiring()
DELETE = write('DELETE FROM trust WHERE id = :id')

GET_USE = read(f'SELECT {USE} FROM trust_use WHERE id = :id')
SETTLE_USE = lwt_global_read(f'SELECT {USE} FROM trust_use WHERE id = :id')
# Servers of several datacenters race for a use.
INSERT_USE = lwt_global(
    f'INSERT INTO trust_use ({USE}) VALUES ({USE.markers}) IF NOT EXISTS'
)
INSERT_USE_EXPIRING = INSERT_USE.expiring()
CONSUME = lwt_global(
    'UPDATE trust_use SET remaining = :left, attempt = :attempt'
    ' WHERE id = :id IF remaining = :seen'
)
CONSUME_EXPIRING = CONSUME.expiring()
DELETE_USE = lwt_global('DELETE FROM trust_use WHERE id = :id IF EXISTS')


BY_TRUSTOR = Index('trust_by_trustor', 'trustor_user_id')
BY_TRUSTEE = Index('trust_by_trustee', 'trustee_user_id')
BY_PROJECT = Index('trust_by_project', 'project_id')
INDEXES = Indexes(BY_TRUSTOR, BY_TRUSTEE, BY_PROJECT)


def claim_key(stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what must be unique, None if one of it is null, as in SQL."""
    key = {name: stored[name] for name in CLAIMS.key}
    if None in key.values():
        return None
    return key | {'expires_at': clock.to_micros(key['expires_at'])}


def _is_flushable(stored: Mapping[str, Any]) -> bool:
    """Return whether it can be flushed; a flush frees the claim first."""
    expires_at = stored['expires_at']
    return stored['deleted_at'] is not None or (
        expires_at is not None and expires_at < clock.utcnow()
    )


# Not trust_use: the remaining uses are recorded nowhere else.
TRUST_DERIVED = DerivedTables(
    'trust',
    TRUST.part(['id', 'deleted_at', *CLAIMS.key]),
    required=['trustor_user_id'],
    settle=None,
    tables=INDEXES,
    claim_specs=[
        ClaimSpec(CLAIMS, lambda db, row: filter(None, [claim_key(row)]))
    ],
    is_expired=_is_flushable,
)


class _Owners:
    """Trusts as owners of claims, see :class:`~.unique.Owners`."""

    def has(self, db: Store, owner: str, key: Key) -> bool:
        return _exists(db.one(GET_EVERYWHERE, TRUST, id=owner))

    def fence(self, db: Store, owner: str) -> None:
        """None: a trust's creator renews its claim once it is written."""


_OWNERS = _Owners()


class Trust(Driver, base.TrustDriverBase):
    """Trusts in Cassandra."""

    def create_trust(
        self,
        trust_id: str,
        trust: dict[str, Any],
        roles: Iterable[dict[str, Any]],
    ) -> dict[str, Any]:
        stored = to_row(trust_id, trust, roles)
        if _exists(self.db.one(GET, TRUST, id=trust_id)):
            # Before anything is written that would have to be undone.
            raise duplicate('trust', 'ID', trust_id)
        ttl = self._ttl(stored)
        key = claim_key(stored)
        if key is None:
            self._write(stored, ttl)
        else:
            try:
                with logged():
                    self._create(stored, key, ttl)
            except NameTaken:
                raise exception.Conflict(
                    type='trust',
                    details=_(
                        'There is a trust with the same trustor, trustee,'
                        ' project, impersonation and expiry'
                    ),
                ) from None
        given = [{'id': role} for role in stored['roles']]
        return _to_ref(stored, stored['uses']) | {'roles': given}

    def get_trust(
        self, trust_id: str, deleted: bool = False
    ) -> dict[str, Any]:
        stored = self._get(trust_id, deleted)
        expires_at = stored['expires_at']
        remaining = self._remaining(stored)
        if not deleted and (
            (expires_at is not None and clock.utcnow() > expires_at)
            or (remaining is not None and remaining <= 0)
        ):
            raise exception.TrustNotFound(trust_id=trust_id)
        roles = [{'id': role} for role in stored['roles']]
        return _to_ref(stored, remaining) | {'roles': roles}

    def list_trusts(self) -> list[dict[str, Any]]:
        return self._to_refs(self.db.iterate(LIST, TRUST))

    def list_trusts_for_trustee(self, trustee: str) -> list[dict[str, Any]]:
        return self._to_refs(self._indexed(BY_TRUSTEE, trustee))

    def list_trusts_for_trustor(
        self, trustor: str, redelegated_trust_id: str | None = None
    ) -> list[dict[str, Any]]:
        found = self._indexed(BY_TRUSTOR, trustor)
        if redelegated_trust_id:
            found = (
                trust
                for trust in found
                if trust['redelegated_trust_id'] == redelegated_trust_id
            )
        return self._to_refs(found)

    def delete_trust(self, trust_id: str) -> None:
        self._mark_deleted(self._get(trust_id, deleted=True))

    def consume_use(self, trust_id: str) -> None:
        stored = self._get(trust_id)
        if stored['uses'] is None:
            metrics.count(metrics.TRUST_USES, 'unlimited')
            return
        seen = self._remaining(stored)
        attempt = uuid.uuid4()
        attempts = Attempts('trust', trust_id, _ATTEMPTS)
        try:
            while attempts.another():
                if not seen or seen < 0:
                    metrics.count(metrics.TRUST_USES, 'refused')
                    raise exception.TrustUseLimitReached(trust_id=trust_id)
                seen = self._consume(stored, seen, attempt)
                if seen is None:
                    metrics.count(metrics.TRUST_USES, 'consumed')
                    return
        except errors.Contended:
            metrics.count(metrics.TRUST_USES, 'contended')
            raise exception.TrustConsumeMaximumAttempt(
                trust_id=trust_id
            ) from None

    def delete_trusts_for_project(self, project_id: str) -> None:
        for stored in self._indexed(BY_PROJECT, project_id):
            self._mark_deleted(stored)

    def flush_expired_and_soft_deleted_trusts(
        self,
        project_id: str | None = None,
        trustor_user_id: str | None = None,
        trustee_user_id: str | None = None,
        date: datetime.datetime | None = None,
    ) -> None:
        wanted = {
            'project_id': project_id,
            'trustor_user_id': trustor_user_id,
            'trustee_user_id': trustee_user_id,
        }
        for stored in self._candidates(wanted):
            expires_at = stored['expires_at']
            expired = (
                expires_at is not None
                and date is not None
                and expires_at < date
            )
            if (expired or stored['deleted_at'] is not None) and all(
                stored[name] == value
                for name, value in wanted.items()
                if value
            ):
                self._remove(stored)

    def _get(self, trust_id: str, deleted: bool = False) -> dict[str, Any]:
        stored = self.db.one(GET, TRUST, id=trust_id)
        if stored is None:  # nor was it deleted
            stored = escalation.one(self.db, GET_WRITTEN, TRUST, trust_id)
        if not _exists(stored) or (
            stored['deleted_at'] is not None and not deleted
        ):
            raise exception.TrustNotFound(trust_id=trust_id)
        return stored

    def _create(
        self, stored: dict[str, Any], key: dict[str, Any], ttl: int | None
    ) -> None:
        """Write a trust that must be the only one of its kind.

        No fence holds a plain write back: the claim is renewed after it.  If
        another trust has it by then, this one is removed, late or not.
        """
        trust_id = stored['id']
        claim = CLAIMS.take(self.db, trust_id, key, _OWNERS, ttl)
        try:
            self._write(stored, ttl)
            CLAIMS.renew(self.db, claim)
        except NameTaken:
            if CLAIMS.owner(self.db, **key) == trust_id:
                return  # another attempt at this very trust came later
            self._undo(claim)
            raise
        except BaseException as error:
            # Or its counter is there: another attempt's, and so is the rest.
            if not (claim.shared or isinstance(error, exception.Conflict)):
                self._undo(claim)
            raise

    def _undo(self, claim: unique.Claim) -> None:
        with contextlib.suppress(errors.StoreUnavailable):
            self.db.run(DELETE, id=claim.owner)
            CLAIMS.give_up(self.db, claim)

    def _indexed(self, index: Index, value: str) -> Iterator[dict[str, Any]]:
        """Yield the trusts of an index, deleted ones too."""
        ids = ({'id': trust_id} for trust_id in index.ids(self.db, value))
        for found in self.db.many(GET, TRUST, ids):
            yield from filter(_exists, found)

    def _remaining(self, stored: dict[str, Any]) -> int | None:
        """Return the uses left, None if they are not limited."""
        if stored['uses'] is None:
            return None
        key = {'id': stored['id']}
        row = self.db.one(GET_USE, USE, **key) or self.db.one(
            SETTLE_USE, USE, **key
        )
        # Without its counter a trust cannot be used.
        return row['remaining'] or 0 if row else 0

    def _consume(
        self, stored: dict[str, Any], seen: int, attempt: uuid.UUID
    ) -> int | None:
        """Take one of ``seen`` uses.

        :returns: None if it was taken, else how many are left.
        :raises OutcomeUnknown: if it may have been taken: the use is lost
            rather than given twice.
        """
        binds: dict[str, Any] = {
            'id': stored['id'],
            'seen': seen,
            'left': seen - 1,
            'attempt': attempt,
        }
        consume = CONSUME
        ttl = self._ttl(stored)
        if ttl is not None:
            # Without it the counter's cells would outlive their row.
            binds['ttl'] = ttl
            consume = CONSUME_EXPIRING

        def taken(row: Mapping[str, Any] | None) -> bool | None:
            if row and row['attempt'] == attempt:
                return True
            if row and row['remaining'] == seen:
                return False
            return None  # somebody used it since: ours may have been before

        outcome = self.db.cas_settled(consume, SETTLE_USE, taken, **binds)
        return None if outcome else outcome.row.get('remaining') or 0

    def _write(self, stored: dict[str, Any], ttl: int | None) -> None:
        life = {} if ttl is None else {'ttl': ttl}
        if stored['uses'] is not None:
            self._write_use(stored, life)
        INDEXES.write(self.db, [stored], ttl)
        insert = INSERT_EXPIRING if life else INSERT
        self.db.run(insert, **TRUST.dump(stored), **life)

    def _write_use(self, stored: dict[str, Any], life: dict[str, int]) -> None:
        if not self.db.cas_settled(
            INSERT_USE_EXPIRING if life else INSERT_USE,
            SETTLE_USE,
            lambda row: True if row else None,
            id=stored['id'],
            remaining=stored['uses'],
            attempt=None,
            **life,
        ):
            raise duplicate('trust', 'ID', stored['id'])

    def _mark_deleted(self, stored: dict[str, Any]) -> None:
        mark = {
            'id': stored['id'],
            'deleted_at': clock.to_micros(clock.utcnow()),
        }
        ttl = self._ttl(stored)
        if ttl is None:
            self.db.run(MARK_DELETED, **mark)
        else:
            ttl = clock.cap_ttl(ttl + MARGIN)
            self.db.run(MARK_DELETED_EXPIRING, ttl=ttl, **mark)

    def _candidates(
        self, wanted: dict[str, str | None]
    ) -> Iterable[dict[str, Any]]:
        """Return the trusts among which a flush looks."""
        for index in (BY_TRUSTOR, BY_TRUSTEE, BY_PROJECT):
            if value := wanted[index.column]:
                return self._indexed(index, value)
        return filter(_exists, self.db.iterate(LIST, TRUST))

    def _remove(self, stored: dict[str, Any]) -> None:
        """Remove a trust and all that belongs to it.

        The trust itself goes when all but its index rows is gone, so that a
        flush that failed half-way finds it again; it is deleted or expired
        already, and unusable without its counter.
        """
        trust_id = stored['id']
        if stored['uses'] is not None:
            gone = self.db.cas_settled(
                DELETE_USE,
                SETTLE_USE,
                lambda row: None if row else True,
                id=trust_id,
            )
            if not gone:
                LOG.debug('The counter of trust %s was gone.', trust_id)
        key = claim_key(stored)
        if key and (claim := CLAIMS.find(self.db, trust_id, key)):
            CLAIMS.give_up(self.db, claim)
        self.db.run(DELETE, id=trust_id)
        INDEXES.remove(self.db, stored)

    def _to_refs(
        self, stored: Iterable[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return trusts as listed: not the deleted ones, without roles."""
        trusts = [
            trust
            for trust in stored
            if _exists(trust) and trust['deleted_at'] is None
        ]
        return [_to_ref(trust, self._remaining(trust)) for trust in trusts]

    def _ttl(self, stored: dict[str, Any]) -> int | None:
        """Return the seconds for which a trust stays; None is for ever."""
        if stored['expires_at'] is None:
            return None
        # An already expired trust is kept, so that it can be flushed.
        return clock.ttl_until(
            max(stored['expires_at'], clock.utcnow()),
            self.conf.cassandra.trust_retention,
        )


def _exists(stored: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    # A deletion mark can outlive its trust: a row without its birth column.
    return stored is not None and stored['trustor_user_id'] is not None


def to_row(
    trust_id: str, trust: dict[str, Any], roles: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Return the values of the columns of a new trust.

    :raises: as :func:`extras.to_row`.
    """
    given = trust | {'id': trust_id}
    uses = given.pop('remaining_uses', None)
    stored = dict.fromkeys(TRUST.columns) | extras.to_row(given, _REF, 'trust')
    expires_at = stored['expires_at']
    return stored | {
        'uses': uses,
        'roles': [role['id'] for role in roles],
        'expires_at': expires_at and timeutils.normalize_time(expires_at),
    }


def _to_ref(stored: dict[str, Any], remaining: int | None) -> dict[str, Any]:
    """Return a trust as the SQL driver returns it, without roles."""
    return {**extras.to_ref(stored, _REF), 'remaining_uses': remaining}
