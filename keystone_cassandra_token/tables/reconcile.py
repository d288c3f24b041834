# SPDX-License-Identifier: Apache-2.0
"""Reconcile derived tables and claims with their base tables.

Both directions are compared: a row that fits no base row is removed, and a
base row gets the rows that it lacks.  Base rows are never deleted.  It runs
beside servers:

* A row that was written after the run began, or less than :data:`YOUNG`
  before, is left alone: its writer may still be at work.  The age of a base
  row is its timestamp, of an index row its incarnation or timestamp, of a
  claim its ``claimed_at``.
* The age of an index row of a trust cannot be read.  A removal carries the
  timestamp ``YOUNG`` before the run, so Cassandra keeps every younger row.
* Before a row is counted or changed, it and its base row are read at
  EACH_QUORUM, and before that a base row that is changed conditionally at the
  serial level, which completes what is in progress.
* A row that was added is removed if its base row is gone by then.
* Claims are made and freed by the conditional steps that servers use.

Each step leaves tables that readers accept: a run can be interrupted.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from keystone_cassandra_token.db import clock, cql, errors
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import BaseRow, DerivedTables
from keystone_cassandra_token.tables.index import DerivedTable
from keystone_cassandra_token.tables.unique import ClaimSpec, Key, NameTaken

#: Age up to which nothing is damage.
YOUNG = datetime.timedelta(minutes=10)
#: Seconds of a TTL up to which a row is left to expire.
EXPIRING = 60
#: Rows that are compared at once.
CHUNK = 100
# Answered once a quorum of each datacenter is there.
PROBE = cql.escalated_read(
    'SELECT name FROM schema_setting WHERE name = :name'
)

Found = Mapping[str, Any]
Rows = Sequence[Found]


@dataclasses.dataclass
class Counts:
    """What was found in a table, and done.

    :ivar rows: rows that were looked at.
    :ivar stale: index rows that fit no base row, and claims whose owner has
        not the name.
    :ivar missing: index rows or claims that a base row lacks.
    :ivar fixed: of these, what is no longer so.
    :ivar young: what would be one of these, and was left alone.
    """

    rows: int = 0
    stale: int = 0
    missing: int = 0
    fixed: int = 0
    young: int = 0

    @property
    def wrong(self) -> int:
        """What was wrong."""
        return self.stale + self.missing

    @property
    def left(self) -> int:
        """What still is."""
        return self.wrong - self.fixed


class Reconciler:
    """One run.

    :param apply: fix; else only count.
    :param examined: called with the name of a table and how many of its rows
        were looked at since the last call; may wait.
    :param problem: called with a line about what cannot be fixed.
    :param noticed: called with a line about each thing that is wrong.
    :ivar counts: by table.
    """

    def __init__(
        self,
        db: Store,
        *,
        apply: bool = False,
        examined: Callable[[str, int], None] = lambda table, rows: None,
        problem: Callable[[str], None] = lambda line: None,
        noticed: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._db = db
        self._apply = apply
        self._examined = examined
        self._problem = problem
        self._noticed = noticed
        self._horizon = clock.to_micros(clock.utcnow() - YOUNG)
        self.counts: dict[str, Counts] = {}

    def run(self, derived: DerivedTables) -> None:
        """Compare all tables of a kind; fix.

        :raises StoreUnavailable: if a datacenter cannot be asked: before
            anything is changed, or between two changes.
        """
        self._db.one(PROBE, Row('name'), name='name_comparison')
        for table in derived.tables:
            self._compare_rows(derived, table)
        for spec in derived.claim_specs:
            self._compare_claims(derived, spec)
        self._compare_base_rows(derived)

    def _compare_rows(
        self, derived: DerivedTables, table: DerivedTable
    ) -> None:
        """Look for index rows that fit no base row."""
        for found, counts in self._chunks(table.name, table.all, table.row):
            for row, base in self._with_base_rows(derived, found, derived.key):
                if _fits(table, row, base):
                    continue
                if self._is_young(_written_at(row)):
                    counts.young += 1
                else:
                    self._remove(derived, table, row)

    def _remove(
        self, derived: DerivedTables, table: DerivedTable, row: Found
    ) -> None:
        """Remove a row that seems to fit no base row."""
        base = self._base_row(derived, _part(row, derived.key))
        if _fits(table, row, base):
            return
        counts = self._counts(table.name)
        if base is not None and self._is_young(base['written_at']):
            counts.young += 1  # its writer is about to remove the row
            return
        if not self._is_there(table, row):
            return
        if self._apply:
            self._db.run(
                table.delete_older,
                written_at=self._horizon,
                **table.key(row),
            )
            if self._is_there(table, row):
                counts.young += 1
                return
            counts.fixed += 1
        self._found(table.name, 'stale', _part(row, derived.key))

    def _compare_claims(self, derived: DerivedTables, spec: ClaimSpec) -> None:
        """Look for claims whose owner is gone, or has another name."""
        claims = spec.claims
        for found, counts in self._chunks(
            claims.table, claims.all, claims.row
        ):
            # What expires may be half gone: without an owner.
            owned = [
                row
                for row in found
                if row['owner'] is not None and not _expires(row)
            ]
            for row, base in self._with_base_rows(derived, owned, ['owner']):
                if self._has(spec, base, _part(row, claims.key)):
                    continue
                if self._is_young(_claimed_at(row)):
                    counts.young += 1
                else:
                    self._free(derived, spec, row)

    def _free(
        self, derived: DerivedTables, spec: ClaimSpec, seen: Found
    ) -> None:
        """Free a claim whose owner seems to be nowhere."""
        claims = spec.claims
        key = _part(seen, claims.key)
        owner = seen['owner']
        base = self._owner(derived, owner)
        if self._has(spec, base, key):
            return
        claim = claims.settled(self._db, **key)
        if claim is None or claim['owner'] != owner or _expires(claim):
            return
        counts = self._counts(claims.table)
        if self._is_young(_claimed_at(claim)) or (
            base is not None and self._is_young(base['written_at'])
        ):
            counts.young += 1
            return
        try:
            if self._apply and not claims.free_orphan(
                self._db, claim, key, self._owners(derived, spec)
            ):
                return  # somebody has changed it meanwhile
            counts.fixed += self._apply
        except errors.OutcomeUnknown as error:
            self._problem(f'{claims.table}, claim of {owner}: {error.reason}')
        self._found(claims.table, 'stale', owner)

    def _compare_base_rows(self, derived: DerivedTables) -> None:
        """Look for what base rows lack."""
        for found, _ in self._chunks(
            derived.base_table, derived.all, derived.row
        ):
            base_rows = [
                base
                for base in found
                if derived.exists(base) and not _expires(base)
            ]
            for table in derived.tables:
                self._look_for_rows(derived, table, base_rows)
            for spec in derived.claim_specs:
                self._look_for_claims(derived, spec, base_rows)

    def _look_for_rows(
        self, derived: DerivedTables, table: DerivedTable, base_rows: Rows
    ) -> None:
        wanted = [
            (base, place) for base in base_rows for place in table.rows(base)
        ]
        keys = (table.key(place) for _, place in wanted)
        found = self._db.many(table.find, table.row, keys)
        for (base, place), rows in zip(wanted, found, strict=True):
            if any(table.fits(place, row) for row in rows):
                continue
            if self._is_young(base['written_at']):
                self._counts(table.name).young += 1
            else:
                self._add(derived, table, _part(base, derived.key), place)

    def _add(
        self,
        derived: DerivedTables,
        table: DerivedTable,
        key: Key,
        place: Found,
    ) -> None:
        """Give a base row the row that it seems to lack."""
        base = self._base_row(derived, key)
        if not self._is_settled(base) or not _fits(table, place, base):
            return
        found = self._row(table, place)
        if table.fits(place, found):
            return
        if found is not None:
            other = _part(found, derived.key)
            if _fits(table, found, self._base_row(derived, other)):
                self._conflict(table.name, key, other)
                return
        if not self._apply:
            self._found(table.name, 'missing', key)
            return
        written_at = (
            derived.timestamp_of(base)
            if derived.timestamp_of
            else clock.to_micros(clock.utcnow())
        )
        put, life = table.put, {}
        if base['ttl_left'] is not None:
            put, life = table.put_expiring, {'ttl': base['ttl_left']}
        self._db.run(put, written_at=written_at, **life, **place)
        if not _fits(table, place, self._base_row(derived, key)):
            # Deleted meanwhile, perhaps before the row was added.
            self._db.run(
                table.delete_older, written_at=written_at, **table.key(place)
            )
            return
        if derived.rewrite and not self._is_there(table, place):
            for statement, binds in derived.rewrite(base, table):
                self._db.run(statement, **binds)
        self._found(table.name, 'missing', key)
        if self._is_there(table, place):
            self._counts(table.name).fixed += 1
        else:
            self._problem(
                f'{table.name}: the row of {derived.base_table}'
                f' {_text(key)} is hidden by a deletion with a later'
                ' timestamp; check the clocks.'
            )

    def _look_for_claims(
        self, derived: DerivedTables, spec: ClaimSpec, base_rows: Rows
    ) -> None:
        wanted = [
            (base, key)
            for base in base_rows
            if not derived.is_expired(base)
            for key in spec.keys(self._db, base)
        ]
        keys = (key for _, key in wanted)
        found = self._db.many(spec.claims.get, spec.claims.row, keys)
        for (base, key), rows in zip(wanted, found, strict=True):
            (owner,) = _part(base, derived.key).values()
            if [row['owner'] for row in rows] == [owner]:
                continue
            if self._is_young(base['written_at']):
                self._counts(spec.claims.table).young += 1
            else:
                self._claim(derived, spec, owner, dict(key))

    def _claim(
        self, derived: DerivedTables, spec: ClaimSpec, owner: str, key: Key
    ) -> None:
        """Give a base row the claim that it seems to lack."""
        claims = spec.claims
        base = self._owner(derived, owner)
        if (
            not self._is_settled(base)
            or derived.is_expired(base)
            or not self._has(spec, base, key)
        ):
            return
        counts = self._counts(claims.table)
        claim = claims.settled(self._db, **key)
        if claim is not None:
            other = claim['owner']
            if other == owner:
                return
            if other is not None and self._owns(derived, spec, other, key):
                self._conflict(claims.table, owner, other)
                return
            if other is None or self._is_young(_claimed_at(claim)):
                counts.young += 1  # others are at it, or it is half expired
                return
        if not self._apply:
            self._found(claims.table, 'missing', owner)
            return
        try:
            made = claims.take(
                self._db,
                owner,
                key,
                self._owners(derived, spec),
                base['ttl_left'],
            )
            if not self._owns(derived, spec, owner, key):
                # Deleted or renamed meanwhile.
                if not made.shared:
                    claims.give_up(self._db, made)
                return
            counts.fixed += 1
        except NameTaken as taken:
            if self._owns(derived, spec, owner, key):
                self._conflict(claims.table, owner, taken.owner)
            return
        except errors.OutcomeUnknown as error:
            self._problem(f'{claims.table}, claim of {owner}: {error.reason}')
        self._found(claims.table, 'missing', owner)

    def _conflict(self, table: str, one: Any, other: Any) -> None:
        self._found(table, 'missing', one)
        self._problem(
            f'{table}: {_text(one)} lacks its row, which {_text(other)} has;'
            ' delete or rename one of the two.'
        )

    def _found(self, table: str, wrong: str, key: Any) -> None:
        """Count what is wrong in a table, and tell whose it is."""
        counts = self._counts(table)
        setattr(counts, wrong, getattr(counts, wrong) + 1)
        self._noticed(f'{table}: {wrong}, {_text(key)}')

    def _counts(self, table: str) -> Counts:
        return self.counts.setdefault(table, Counts())

    def _chunks(
        self, table: str, statement: cql.Statement, row: Row
    ) -> Iterator[tuple[list[dict[str, Any]], Counts]]:
        """Yield all rows of a table, some at a time, with its counts."""
        counts = self._counts(table)
        found = self._db.iterate(statement, row)
        self._examined(table, 0)
        while rows := list(itertools.islice(found, CHUNK)):
            yield rows, counts
            counts.rows += len(rows)
            self._examined(table, len(rows))

    def _with_base_rows(
        self,
        derived: DerivedTables,
        rows: list[dict[str, Any]],
        names: Iterable[str],
    ) -> Iterator[tuple[Found, BaseRow | None]]:
        """Yield each row with its base row as this datacenter sees it.

        :param names: the columns that have the key of the base row.
        """
        columns = list(zip(derived.key, names, strict=True))
        keys = ({key: row[name] for key, name in columns} for row in rows)
        base_rows = self._db.many(derived.find, derived.row, keys)
        for row, found in zip(rows, base_rows, strict=True):
            yield row, next(filter(derived.exists, found), None)

    def _base_row(self, derived: DerivedTables, key: Key) -> BaseRow | None:
        """Return a base row as any datacenter may see it."""
        if derived.settle:
            # Ends what is in progress; what it is, is read next.
            self._db.one(derived.settle, derived.row, **key)
        base = self._db.one(derived.find_everywhere, derived.row, **key)
        return base if derived.exists(base) else None

    def _owner(self, derived: DerivedTables, owner: str) -> BaseRow | None:
        (column,) = derived.key
        return self._base_row(derived, {column: owner})

    def _owns(
        self, derived: DerivedTables, spec: ClaimSpec, owner: str, key: Key
    ) -> bool:
        """Return whether any datacenter knows this owner by this name."""
        return self._has(spec, self._owner(derived, owner), key)

    def _owners(self, derived: DerivedTables, spec: ClaimSpec) -> _Owners:
        return _Owners(
            lambda owner, key: self._owns(derived, spec, owner, key),
            derived.fence,
        )

    def _has(self, spec: ClaimSpec, base: BaseRow | None, key: Key) -> bool:
        return base is not None and key in spec.keys(self._db, base)

    def _row(self, table: DerivedTable, row: Found) -> dict[str, Any] | None:
        """Return what is in a row's place, as any datacenter may see it."""
        return self._db.one(table.find_everywhere, table.row, **table.key(row))

    def _is_there(self, table: DerivedTable, row: Found) -> bool:
        return table.fits(row, self._row(table, row))

    def _is_young(self, written_at: int | None) -> bool:
        return written_at is not None and written_at > self._horizon

    def _is_settled(self, base: BaseRow | None) -> TypeGuard[BaseRow]:
        """Return whether a base row should have all that follows from it."""
        return (
            base is not None
            and not self._is_young(base['written_at'])
            and not _expires(base)
        )


class _Owners:
    """Base rows as owners of claims, see :class:`~.unique.Owners`."""

    def __init__(
        self,
        has: Callable[[str, Key], bool],
        fence: Callable[[Store, str], None],
    ) -> None:
        self._has = has
        self._fence = fence

    def has(self, db: Store, owner: str, key: Key) -> bool:
        return self._has(owner, key)

    def fence(self, db: Store, owner: str) -> None:
        self._fence(db, owner)


def _fits(table: DerivedTable, row: Found, base: BaseRow | None) -> bool:
    return base is not None and any(
        table.fits(row, place) for place in table.rows(base)
    )


def _written_at(row: Found) -> int | None:
    """Return how old an index row says it is, in microseconds."""
    if row.get('incarnation') is not None:
        return clock.micros_of(row['incarnation'])
    return row.get('written_at')


def _claimed_at(claim: Found) -> int | None:
    claimed_at = claim['claimed_at']
    return claimed_at and clock.to_micros(claimed_at)


def _expires(row: Found) -> bool:
    """Return whether a row goes by itself before anything could be done."""
    return row['ttl_left'] is not None and row['ttl_left'] < EXPIRING


def _part(row: Found, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _text(key: Any) -> str:
    """Return a base row's key for a line of text."""
    values = key.values() if isinstance(key, dict) else [key]
    return ' '.join(map(str, values))
