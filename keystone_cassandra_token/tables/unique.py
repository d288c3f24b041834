# SPDX-License-Identifier: Apache-2.0
"""Unique names: a claim row for what must be unique.

The key of a claim table is what must be unique; the row holds the owner's id
and a state.  A creator claims the name (``pending``), writes its base row and
confirms the claim (``held``).  Each step is a conditional write::

    claim --> base row written --> confirm
      |                              |
      '- taken: 409                  '- lost: remove the base row, 409

A process may die between the steps.  Its pending claim may be taken over if
it is older than :data:`STALE_AFTER` and an EACH_QUORUM read finds no base row
of the owner.  A creator that was only slow then loses at ``confirm``, and
removes its base row.  Only the deletion or the rename of the owner frees a
held claim.  It makes the claim pending first, so that the name does not stay
taken if the process dies::

    pending again --> base row removed --> free

A compare-and-set whose reply is lost is settled by a serial read.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any

from keystone_cassandra_token.db import clock, cql, errors, metrics, parts
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.outcome import Outcome
from keystone_cassandra_token.db.rows import Row, micros
from keystone_cassandra_token.db.store import Store

#: Age from which a pending claim may be taken over.
STALE_AFTER = datetime.timedelta(minutes=1)

PENDING = 'pending'
HELD = 'held'


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


class Claims:
    """The claims of one table.

    :ivar by_part: reads the owners of a part of the key, where there is one.

    :param table: its name; beside the key it has the columns ``owner``,
        ``state`` and ``claimed_at``.
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
        self.row = Row('owner', 'state', claimed_at=micros)
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
            f' ({", ".join(key)}, owner, state, claimed_at) VALUES'
            f' ({", ".join(f":{name}" for name in key)},'
            " :owner, 'pending', :claimed_at) IF NOT EXISTS"
        )
        self.insert_expiring = self.insert.expiring()
        self.take_over = write(
            f'UPDATE {table} SET owner = :owner, claimed_at = :claimed_at'
            f" WHERE {where} IF owner = :seen AND state = 'pending'"
        )
        self.take_over_expiring = write(
            self.take_over.cql.replace(' SET ', ' USING TTL :ttl SET ', 1)
        )
        self.set_held = write(
            f"UPDATE {table} SET state = 'held' WHERE {where}"
            ' IF owner = :owner'
        )
        self.set_held_expiring = write(
            self.set_held.cql.replace(' SET ', ' USING TTL :ttl SET ', 1)
        )
        self.set_pending = write(
            f"UPDATE {table} SET state = 'pending', claimed_at = :claimed_at"
            f' WHERE {where} IF owner = :owner'
        )
        self.set_pending_expiring = write(
            self.set_pending.cql.replace(' SET ', ' USING TTL :ttl SET ', 1)
        )
        self.free = write(
            f'DELETE FROM {table} WHERE {where} IF owner = :owner'
        )
        self.free_pending = write(
            f'DELETE FROM {table} WHERE {where}'
            " IF owner = :owner AND state = 'pending'"
        )
        self._leads_to = {
            self.set_held: HELD,
            self.set_held_expiring: HELD,
            self.set_pending: PENDING,
            self.set_pending_expiring: PENDING,
        }

    def owner(self, db: Store, **key: Any) -> str | None:
        """Return who has the name, or None."""
        row = db.one(self.get, self.row, **key)
        return row['owner'] if row else None

    def owners(self, db: Store, **part: Any) -> list[str]:
        """Return who has names with this part; some may have none yet."""
        rows = db.rows(self.by_part, _OWNER, **part)
        return [row['owner'] for row in rows]

    @contextlib.contextmanager
    def claimed(
        self,
        db: Store,
        owner: str,
        *,
        exists: Callable[[str], bool],
        undo: Callable[[], object],
        ttl: int | None = None,
        **key: Any,
    ) -> Iterator[None]:
        """Claim the name, run the body, confirm the claim.

        The body writes the owner's base row.

        :param exists: whether an owner's base row is visible in any
            datacenter; an escalated read.
        :param undo: removes what the body wrote.
        :param ttl: seconds after which the claim expires with its owner.
        :raises NameTaken: if somebody else has it, before or after the body.
        """
        with self.all_claimed(
            db,
            [(owner, key)],
            exists=lambda other, _key: exists(other),
            undo=undo,
            ttl=ttl,
        ):
            yield

    @contextlib.contextmanager
    def all_claimed(
        self,
        db: Store,
        pairs: Collection[tuple[str, Key]],
        *,
        exists: Callable[[str, Key], bool],
        undo: Callable[[], object],
        ttl: int | None = None,
    ) -> Iterator[None]:
        """Claim several names, all or none, as :meth:`claimed`.

        :param pairs: an owner and a name, each.
        :param exists: whether an owner with this name is visible in any
            datacenter; an escalated read.  Other threads call it.
        """
        if not pairs:
            yield
            return
        fresh: list[tuple[str, Key]] = []

        def claim(store: Store, pair: tuple[str, Key]) -> None:
            owner, key = pair
            known = functools.partial(_known, exists, key)
            if self.claim(store, owner, exists=known, ttl=ttl, **key):
                fresh.append(pair)

        def confirm(store: Store, pair: tuple[str, Key]) -> None:
            owner, key = pair
            self.confirm(store, owner, ttl=ttl, **key)

        def give_back() -> None:
            # Where ids are computed, two processes that create one owner
            # share its claim: it is freed only if the owner is absent.
            for owner, key in fresh:
                if not exists(owner, key):
                    self._free(db, self.free_pending, owner, key)

        try:
            parts.each(db, claim, pairs)
        except BaseException:
            with contextlib.suppress(errors.StoreUnavailable):
                give_back()
            raise
        try:
            yield
        except BaseException:
            # Also when the body only seemed to fail: a base row without a held
            # claim must not stay.  While Cassandra is away nothing can be
            # removed, and the pending claim of a visible base row stays.
            with contextlib.suppress(errors.StoreUnavailable):
                undo()
                give_back()
            raise
        try:
            parts.each(db, confirm, pairs)
        except BaseException:
            with contextlib.suppress(errors.StoreUnavailable):
                undo()
                # Another one that creates this owner may hold it by now.
                for owner, key in pairs:
                    known = functools.partial(_known, exists, key)
                    self.free_if_orphaned(
                        db, owner, exists=known, ttl=ttl, **key
                    )
            raise

    def claim(
        self,
        db: Store,
        owner: str,
        *,
        exists: Callable[[str], bool],
        ttl: int | None = None,
        **key: Any,
    ) -> bool:
        """Claim the name for ``owner``, pending; idempotent.

        :returns: whether it was not the owner's before.
        :raises NameTaken: if somebody else has it.
        """
        life, insert = _with_ttl(self.insert, self.insert_expiring, ttl)
        now = clock.utcnow()
        outcome = self._cas(
            db,
            insert,
            key,
            owner=owner,
            claimed_at=clock.to_micros(now),
            **life,
        )
        if outcome or outcome.row['owner'] == owner:
            if outcome:
                metrics.count(metrics.CLAIMS, self.table, 'made')
            return bool(outcome)
        seen = self.row.load(
            {name: outcome.row[name] for name in self.row.columns}
        )
        if (
            seen['state'] != PENDING
            or now - seen['claimed_at'] < STALE_AFTER
            or exists(seen['owner'])
        ):
            metrics.count(metrics.CLAIMS, self.table, 'taken')
            raise NameTaken(seen['owner'], self.table)
        life, take_over = _with_ttl(
            self.take_over, self.take_over_expiring, ttl
        )
        outcome = self._cas(
            db,
            take_over,
            key,
            owner=owner,
            seen=seen['owner'],
            claimed_at=clock.to_micros(now),
            **life,
        )
        if not outcome and outcome.row.get('owner') != owner:
            other = outcome.row.get('owner', seen['owner'])
            metrics.count(metrics.CLAIMS, self.table, 'taken')
            raise NameTaken(other, self.table)
        metrics.count(metrics.CLAIMS, self.table, 'taken_over')
        return True

    def confirm(
        self, db: Store, owner: str, *, ttl: int | None = None, **key: Any
    ) -> None:
        """Make ``owner``'s pending claim a held one.

        :raises NameTaken: if it was taken over meanwhile.
        """
        life, confirm = _with_ttl(self.set_held, self.set_held_expiring, ttl)
        outcome = self._cas(db, confirm, key, owner=owner, **life)
        if not outcome and outcome.row.get('owner') != owner:
            raise NameTaken(outcome.row.get('owner', 'nobody'), self.table)

    @contextlib.contextmanager
    def releasing(
        self,
        db: Store,
        owner: str,
        keys: Iterable[Key],
        *,
        exists: Callable[[str, Key], bool],
        ttl: int | None = None,
    ) -> Iterator[None]:
        """Free several names once the body has removed the owner's base row.

        Until then their claims are pending: if this process dies after the
        body, a name can be taken over as from a creator that died.

        An id can come back, and a name too: what has been held again by then
        is freed only if the owner does not have it.

        :param exists: as for :meth:`all_claimed`.
        :param ttl: as for :meth:`claimed`.
        """
        life, mark_pending = _with_ttl(
            self.set_pending, self.set_pending_expiring, ttl
        )
        now = clock.to_micros(clock.utcnow())
        mine: list[Key] = []
        try:
            for key in keys:
                if self._cas(
                    db, mark_pending, key, owner=owner, claimed_at=now, **life
                ):
                    mine.append(key)
            yield
        except BaseException:
            # A pending claim is safe: it is kept if the owner exists, and can
            # be taken over if not.
            for key in mine:
                with contextlib.suppress(NameTaken, errors.StoreUnavailable):
                    if exists(owner, key):
                        self.confirm(db, owner, ttl=ttl, **key)
            raise
        for key in mine:
            if self._free(db, self.free_pending, owner, key):
                known = functools.partial(_known, exists, key)
                self.free_if_orphaned(db, owner, exists=known, ttl=ttl, **key)

    def release(self, db: Store, owner: str, **key: Any) -> None:
        """Free the name if it is ``owner``'s; else leave it."""
        self._free(db, self.free, owner, key)

    def free_if_orphaned(
        self,
        db: Store,
        owner: str,
        *,
        exists: Callable[[str], bool],
        ttl: int | None = None,
        **key: Any,
    ) -> bool:
        """Free the name if its owner does not exist; return whether it was.

        The claim is made pending before the owner is looked for once more.
        So one that is created at that very moment, with the same id, is
        found, or finds at :meth:`confirm` that it lost the name.

        :param exists: as for :meth:`claim`.
        :param ttl: seconds that the claim has left; None is for ever.
        :raises OutcomeUnknown: if it cannot be found out.
        """
        life, mark_pending = _with_ttl(
            self.set_pending, self.set_pending_expiring, ttl
        )
        now = clock.to_micros(clock.utcnow())
        if not self._cas(
            db, mark_pending, key, owner=owner, claimed_at=now, **life
        ):
            return False  # its owner freed it, or it was taken over
        if exists(owner):
            with contextlib.suppress(NameTaken):
                self.confirm(db, owner, ttl=ttl, **key)
            return False
        return bool(
            db.cas_settled(
                self.free_pending,
                self.settle_lasting,
                lambda row: None if row and row['owner'] == owner else True,
                owner=owner,
                **key,
            )
        )

    def settled(self, db: Store, **key: Any) -> dict[str, Any] | None:
        """Return the claim with its ``ttl_left``, or None.

        What others are doing with it is done then.
        """
        return db.one(self.settle_lasting, self.row, **key)

    def _free(
        self,
        db: Store,
        statement: cql.Statement,
        owner: str,
        key: Mapping[str, Any],
    ) -> bool:
        """Free a name; return whether the owner holds it all the same.

        As it can after :attr:`free_pending`.
        """

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None or row['owner'] != owner:
                return True
            held = statement is self.free_pending and row['state'] == HELD
            return False if held else None

        outcome = db.cas_settled(
            statement, self.settle, applied, owner=owner, **key
        )
        return not outcome and outcome.row.get('owner') == owner

    def _cas(
        self,
        db: Store,
        statement: cql.Statement,
        key: Mapping[str, Any],
        **binds: Any,
    ) -> Outcome:
        """Run a conditional write that makes or keeps ``owner`` the owner."""

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return None  # neither applied nor refused
            if row['owner'] != binds['owner']:
                return False
            wanted = self._leads_to.get(statement, row['state'])
            return True if row['state'] == wanted else None

        return db.cas_settled(statement, self.settle, applied, **key, **binds)


def _known(exists: Callable[[str, Key], bool], key: Key, owner: str) -> bool:
    return exists(owner, key)


def _with_ttl(
    statement: cql.Statement, expiring: cql.Statement, ttl: int | None
) -> tuple[dict[str, int], cql.Statement]:
    if ttl is None:
        return {}, statement
    return {'ttl': ttl}, expiring
