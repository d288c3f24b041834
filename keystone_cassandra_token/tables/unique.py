# SPDX-License-Identifier: Apache-2.0
"""Unique names: a claim row for what must be unique.

The key of a claim table is what must be unique; the row holds the id of the
owner, and the stamp of the attempt that wrote it last.  Somebody has a name if
the claim says so and its base row has that name: readers look at both.  So a
claim is written before the base row has the name, and freed after it has it
no more; one compare-and-set each::

    create:  claim -> base row
    rename:  new claim -> base row -> old claim freed
    delete:  base row -> claim freed

A claim whose owner has not the name is of an attempt under way, or of one
that has died.  It can be taken over after :data:`STALE_AFTER`, by whoever has
made sure that the owner will not have the name after all: a fence makes what
was sent before impossible, and after it the base row is looked at once more.
So the minute is a courtesy, and no clock decides.

A claim is changed and freed on its stamp alone: not if another attempt of the
same owner relies on it by now.  So a base row keeps the stamps under which its
names were written, and who takes a name away from it frees that very claim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from oslo_serialization import jsonutils

from keystone_cassandra_token.db import clock, cql, deadline, errors, metrics
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.rows import Row, micros
from keystone_cassandra_token.db.store import Store

#: Age from which a claim may be taken over, if its owner has not the name.
STALE_AFTER = datetime.timedelta(minutes=1)

#: Seconds of a request in which a claim must be freed, or it is left: it can
#: be, and would take all that there are.
GIVE_UP_WITHIN = 2.0

Key = Mapping[str, Any]

_OWNER = Row('owner')


class NameTaken(Exception):
    """Another owner has the name.

    :ivar owner: the id of who has it.
    :ivar table: the table of claims; None where the id itself is in use.
    """

    def __init__(self, owner: str, table: str | None = None) -> None:
        super().__init__(f'taken by {owner}')
        self.owner = owner
        self.table = table


class Owners(Protocol):
    """What a claim must know of those who can own it."""

    def has(self, db: Store, owner: str, key: Key) -> bool:
        """Return whether any datacenter knows the owner by this name."""

    def fence(self, db: Store, owner: str) -> None:
        """Make impossible what was sent and may still give it the name."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim as an attempt has made it, or read it.

    :ivar stamp: of the attempt that wrote it; None for a claim that a server
        of an older version wrote.
    :ivar shared: whether it was the owner's already.  Another attempt may
        rely on it, so it is not given up: it can be taken over.
    :ivar ttl: seconds after which it expires with its owner.
    """

    claims: Claims
    key: Key
    owner: str
    stamp: uuid.UUID | None
    shared: bool = False
    ttl: int | None = None


def label(table: str, key: Key) -> str:
    """Return what the stamp of a claim is called among those of a base row."""
    key_text: str = jsonutils.dumps(key, sort_keys=True)
    return f'{table} {key_text}'


class Claims:
    """The claims of one table.

    :ivar by_part: reads the owners of a part of the key, where there is one.

    :param table: its name; beside the key it has the columns ``owner``,
        ``stamp``, ``claimed_at`` and ``state``.  The latter is for servers of
        older versions: to them no claim is one that may be taken over.
    :param key: the columns of its primary key.
    :param operation: ``LWT_GLOBAL``, agreed on in the whole deployment, or
        ``LWT_LOCAL``, in one datacenter.
    :param part: the column of the key that is its partition alone, if it is
        not all of them: then the owners of a part can be listed.
    """

    by_part: cql.Statement

    def __init__(
        self,
        table: str,
        *key: str,
        operation: Operation = Operation.LWT_GLOBAL,
        part: str | None = None,
    ) -> None:
        write, read = {
            Operation.LWT_GLOBAL: (cql.lwt_global, cql.lwt_global_read),
            Operation.LWT_LOCAL: (cql.lwt_local, cql.lwt_local_read),
        }[operation]
        where = ' AND '.join(f'{name} = :{name}' for name in key)
        self.table = table
        self.key = key
        self.row = Row('owner', 'stamp', claimed_at=micros)
        self.get = cql.read(f'SELECT {self.row} FROM {table} WHERE {where}')
        if part is not None:
            self.by_part = cql.read(
                f'SELECT owner FROM {table} WHERE {part} = :{part}'
            )
        self.settle = read(f'SELECT {self.row} FROM {table} WHERE {where}')
        lasting = f'{self.row}, TTL(owner) AS ttl_left'
        # Reconcile compares all of them with their owners.
        self.all = cql.scan(f'SELECT {", ".join(key)}, {lasting} FROM {table}')
        self.settle_lasting = read(
            f'SELECT {lasting} FROM {table} WHERE {where}'
        )
        self.insert = write(
            f'INSERT INTO {table}'
            f' ({", ".join(key)}, owner, stamp, claimed_at, state) VALUES'
            f' ({", ".join(f":{name}" for name in key)},'
            " :owner, :stamp, :claimed_at, 'held') IF NOT EXISTS"
        )
        self.insert_expiring = self.insert.expiring()
        # All columns, so that they expire together.
        self.replace = write(
            f'UPDATE {table} SET owner = :owner, stamp = :stamp,'
            f" claimed_at = :claimed_at, state = 'held' WHERE {where}"
            ' IF owner = :seen_owner AND stamp = :seen_stamp'
        )
        self.replace_expiring = self.replace.expiring()
        self.free = write(
            f'DELETE FROM {table} WHERE {where}'
            ' IF owner = :owner AND stamp = :stamp'
        )

    def owner(self, db: Store, **key: Any) -> str | None:
        """Return who has the name, or None."""
        row = db.one(self.get, self.row, **key)
        return row['owner'] if row else None

    def owners(self, db: Store, **part: Any) -> list[str]:
        """Return who has names with this part; some may have none yet."""
        rows = db.rows(self.by_part, _OWNER, **part)
        return [row['owner'] for row in rows]

    def find(self, db: Store, owner: str, key: Key) -> Claim | None:
        """Return the claim of an owner that wrote down no stamp of it.

        Read before the base row changes, it is not that of an attempt that
        begins after it.

        :returns: None if it is another's, or not yet in this datacenter.
        """
        row = db.one(self.get, self.row, **key)
        if row is None or row['owner'] != owner:
            return None
        return Claim(self, key, owner, row['stamp'])

    def take(
        self,
        db: Store,
        owner: str,
        key: Key,
        owners: Owners,
        ttl: int | None = None,
        check_free: Callable[[], object] = lambda: None,
    ) -> Claim:
        """Claim a name.

        :param ttl: seconds after which the claim expires with its owner.
        :param check_free: called before a claim of the same owner is shared:
            raises if that is there already, and is the only one to have it.
        :raises NameTaken: if somebody else has it.
        :raises Contended: if it changes hands all the time.
        """
        attempts = Attempts(self.table.replace('_', ' '), owner)
        while attempts.another():
            claim = Claim(self, key, owner, clock.incarnation(), ttl=ttl)
            seen = self._insert(db, claim)
            if seen is None:
                metrics.count(metrics.CLAIMS, self.table, 'made')
                return claim
            shared = seen['owner'] == owner
            # What an older version let expire column by column is nobody's.
            if shared:
                check_free()
            elif seen['owner'] is not None:
                self._check_orphaned(db, seen, key, owners)
            if self._replace(db, seen, claim):
                if not shared:
                    metrics.count(metrics.CLAIMS, self.table, 'taken_over')
                return dataclasses.replace(claim, shared=shared)

    def renew(self, db: Store, claim: Claim) -> Claim:
        """Make sure that a claim is still what this attempt has made it.

        :raises NameTaken: if somebody else has the name, or may have it.
        """
        renewed = dataclasses.replace(claim, stamp=clock.incarnation())
        seen = {'owner': claim.owner, 'stamp': claim.stamp}
        if not self._replace(db, seen, renewed):
            raise NameTaken(claim.owner, self.table)
        return renewed

    def give_up(self, db: Store, claim: Claim) -> None:
        """Free a name that its owner has no more.

        It can be left: who wants the name takes it over.  So it does not
        fail, and does nothing if another attempt has the claim by now.
        """
        with (
            contextlib.suppress(errors.StoreUnavailable),
            deadline.sooner(
                GIVE_UP_WITHIN, db.conf.cassandra.request_deadline
            ),
        ):
            self._free(db, claim)

    def free_orphan(
        self, db: Store, claim: Mapping[str, Any], key: Key, owners: Owners
    ) -> bool:
        """Free a claim whose owner has not the name; return whether it did.

        :param claim: from :meth:`settled`.
        :raises OutcomeUnknown: if it cannot be found out.
        """
        owner = claim['owner']
        if self._is_had(db, owner, key, owners):
            return False
        return self._free(db, Claim(self, key, owner, claim['stamp']))

    def settled(self, db: Store, **key: Any) -> dict[str, Any] | None:
        """Return the claim with its ``ttl_left``, or None.

        What others are doing with it is done then.
        """
        return db.one(self.settle_lasting, self.row, **key)

    def _check_orphaned(
        self, db: Store, seen: Mapping[str, Any], key: Key, owners: Owners
    ) -> None:
        """Check that a claim's owner has not its name, and will not have it.

        :raises NameTaken: if it has, or may be about to.
        """
        claim = self.row.load(seen)
        young = clock.utcnow() - claim['claimed_at'] < STALE_AFTER
        if young or self._is_had(db, claim['owner'], key, owners):
            metrics.count(metrics.CLAIMS, self.table, 'taken')
            raise NameTaken(claim['owner'], self.table)

    def _is_had(self, db: Store, owner: str, key: Key, owners: Owners) -> bool:
        """Return whether an owner has a name; if not, nor later by this."""
        if owners.has(db, owner, key):
            return True
        owners.fence(db, owner)
        return owners.has(db, owner, key)

    def _insert(self, db: Store, claim: Claim) -> Mapping[str, Any] | None:
        """Make a claim; return the one that is there instead."""
        life, insert = _with_ttl(self.insert, self.insert_expiring, claim.ttl)
        outcome = db.cas_settled(
            insert,
            self.settle,
            lambda row: None if row is None else row['stamp'] == claim.stamp,
            **_columns(claim),
            **life,
        )
        return None if outcome else outcome.row

    def _replace(
        self, db: Store, seen: Mapping[str, Any], claim: Claim
    ) -> bool:
        """Put a claim in the place of one that was seen."""

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return False
            if row['stamp'] == claim.stamp:
                return True
            unchanged = all(row[name] == seen[name] for name in _SEEN)
            return None if unchanged else False

        life, replace = _with_ttl(
            self.replace, self.replace_expiring, claim.ttl
        )
        return bool(
            db.cas_settled(
                replace,
                self.settle,
                applied,
                **_columns(claim),
                **{f'seen_{name}': seen[name] for name in _SEEN},
                **life,
            )
        )

    def _free(self, db: Store, claim: Claim) -> bool:
        def applied(row: Mapping[str, Any] | None) -> bool | None:
            same = row is not None and (row['owner'], row['stamp']) == (
                claim.owner,
                claim.stamp,
            )
            return None if same else True

        return bool(
            db.cas_settled(
                self.free,
                self.settle,
                applied,
                owner=claim.owner,
                stamp=claim.stamp,
                **claim.key,
            )
        )


#: What a claim is recognised by.
_SEEN = ('owner', 'stamp')


@dataclasses.dataclass(frozen=True)
class ClaimSpec:
    """Which claims base rows need in one table of claims.

    :ivar keys: returns the keys of the claims of a base row.
    """

    claims: Claims
    keys: Callable[[Store, Mapping[str, Any]], Iterable[Key]]


def _columns(claim: Claim) -> dict[str, Any]:
    return {
        **claim.key,
        'owner': claim.owner,
        'stamp': claim.stamp,
        'claimed_at': clock.to_micros(clock.utcnow()),
    }


def _with_ttl(
    statement: cql.Statement, expiring: cql.Statement, ttl: int | None
) -> tuple[dict[str, int], cql.Statement]:
    if ttl is None:
        return {}, statement
    return {'ttl': ttl}, expiring
