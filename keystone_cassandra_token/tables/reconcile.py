# SPDX-License-Identifier: Apache-2.0
"""Repair: tables that follow from truths are made to fit them again.

In both directions, for each kind of data: a row that fits no truth is
removed, a truth gets the rows that it lacks.  Truths are never deleted.

It is safe beside running servers:

* What was written less than :data:`YOUNG` before the run, or since, is no
  damage: its writer may not be done.  A truth's age is its timestamp, an
  index row's its incarnation or timestamp, a claim's ``claimed_at``.
* Index rows of trusts have no age that can be read.  But a removal carries
  the timestamp of that moment, ``YOUNG`` before the run, so Cassandra itself
  spares whatever is younger, also a row that is written between the last
  look and the removal.
* What a local read says is only a suspicion.  Before anything is counted or
  changed, truth and row are read at EACH_QUORUM, and before that, where the
  truth is changed conditionally, at the serial level, which ends what is in
  progress.
* A row that is added is taken back if its truth is gone right after, with
  the timestamp that it was added with.
* A claim is made and freed by the conditional steps of a server's own.

Each step leaves what a reader can live with, so that a run that was broken
off, or two at once, do no harm.
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
from keystone_cassandra_token.tables.derived import Kind, Names, Truth
from keystone_cassandra_token.tables.index import Link
from keystone_cassandra_token.tables.unique import PENDING, Taken

#: Age up to which nothing is damage.
YOUNG = datetime.timedelta(minutes=10)

#: Seconds of a TTL up to which a row is left to expire.
EXPIRING = 60

#: Rows that are compared at once.
CHUNK = 100

# Answered once a quorum of each region is there.
PROBE = cql.escalated_read(
    'SELECT name FROM schema_setting WHERE name = :name'
)

Found = Mapping[str, Any]


@dataclasses.dataclass
class Counts:
    """What was found in a table, and done.

    :ivar rows: rows that were looked at.
    :ivar stale: index rows that fit no truth.
    :ivar pending: pending claims without an owner.
    :ivar held: held claims whose owner is gone.
    :ivar missing: index rows or claims that a truth lacks.
    :ivar mended: of these four, what is no longer so.
    :ivar young: what would be one of these four, and was left alone.
    """

    rows: int = 0
    stale: int = 0
    pending: int = 0
    held: int = 0
    missing: int = 0
    mended: int = 0
    young: int = 0

    @property
    def wrong(self) -> int:
        """What was wrong."""
        return self.stale + self.pending + self.held + self.missing

    @property
    def left(self) -> int:
        """What still is."""
        return self.wrong - self.mended


class _Gone(Exception):
    """The truth was deleted or renamed while its claim was made."""


class Repair:
    """One run.

    :param apply: mend; else only count.
    :param examined: called with the name of a table and how many of its rows
        were looked at since the last call; may wait.
    :param problem: called with a line about what cannot be mended.
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

    def run(self, kind: Kind) -> None:
        """Compare all tables of a kind; mend.

        :raises StoreUnavailable: if a region cannot be asked: before
            anything is changed, or between two changes.
        """
        self._db.one(PROBE, Row('name'), name='name_comparison')
        for link in kind.links:
            self._compare_rows(kind, link)
        for names in kind.names:
            self._compare_claims(kind, names)
        self._compare_truths(kind)

    def _compare_rows(self, kind: Kind, link: Link) -> None:
        """Look for index rows that fit no truth."""
        for found, counts in self._chunks(link.table, link.all, link.row):
            for row, truth in self._with_truths(kind, found, kind.key):
                if _fits(link, row, truth):
                    continue
                if self._is_young(_written_at(row)):
                    counts.young += 1
                else:
                    self._remove(kind, link, row, counts)

    def _remove(
        self, kind: Kind, link: Link, row: Found, counts: Counts
    ) -> None:
        """Remove a row that seems to fit no truth."""
        truth = self._truth(kind, _part(row, kind.key))
        if _fits(link, row, truth):
            return
        if truth is not None and self._is_young(truth['written_at']):
            counts.young += 1  # its writer is about to remove the row
            return
        if not self._is_there(link, row):
            return
        if self._apply:
            self._db.run(
                link.delete_older,
                written_at=self._horizon,
                **link.key(row),
            )
            if self._is_there(link, row):
                counts.young += 1
                return
            counts.mended += 1
        self._found(link.table, 'stale', _part(row, kind.key))

    def _compare_claims(self, kind: Kind, names: Names) -> None:
        """Look for claims whose owner is gone, or has another name."""
        claims = names.claims
        for found, counts in self._chunks(
            claims.table, claims.all, claims.row
        ):
            # What expires may be half gone: without an owner.
            owned = [
                row
                for row in found
                if row['owner'] is not None and not _expires(row)
            ]
            for row, truth in self._with_truths(kind, owned, ['owner']):
                if self._has(names, truth, _part(row, claims.key)):
                    continue
                if self._is_young(_claimed_at(row)):
                    counts.young += 1
                else:
                    self._free(kind, names, row, counts)

    def _free(
        self, kind: Kind, names: Names, seen: Found, counts: Counts
    ) -> None:
        """Free a claim whose owner seems to be nowhere."""
        claims = names.claims
        key = _part(seen, claims.key)
        owner = seen['owner']
        truth = self._owner(kind, owner)
        if self._has(names, truth, key):
            return
        claim = claims.settled(self._db, **key)
        if claim is None or claim['owner'] != owner or _expires(claim):
            return
        if self._is_young(_claimed_at(claim)) or (
            truth is not None and self._is_young(truth['written_at'])
        ):
            counts.young += 1
            return
        pending = claim['state'] == PENDING
        try:
            if self._apply and not claims.evict(
                self._db,
                owner,
                exists=lambda owner: self._owns(kind, names, owner, key),
                ttl=claim['ttl_left'],
                **key,
            ):
                return  # somebody has changed it meanwhile
            counts.mended += self._apply
        except errors.OutcomeUnknown as error:
            self._problem(f'{claims.table}, claim of {owner}: {error.reason}')
        self._found(claims.table, 'pending' if pending else 'held', owner)

    def _compare_truths(self, kind: Kind) -> None:
        """Look for what truths lack."""
        for found, _ in self._chunks(kind.table, kind.all, kind.row):
            truths = [
                truth
                for truth in found
                if kind.is_born(truth) and not _expires(truth)
            ]
            for link in kind.links:
                self._look_for_rows(kind, link, truths)
            for names in kind.names:
                self._look_for_claims(kind, names, truths)

    def _look_for_rows(
        self, kind: Kind, link: Link, truths: Sequence[Found]
    ) -> None:
        wanted = [
            (truth, place) for truth in truths for place in link.rows(truth)
        ]
        keys = (link.key(place) for _, place in wanted)
        found = self._db.many(link.find, link.row, keys)
        for (truth, place), rows in zip(wanted, found, strict=True):
            if any(link.fits(place, row) for row in rows):
                continue
            if self._is_young(truth['written_at']):
                self._counts(link.table).young += 1
            else:
                self._add(kind, link, _part(truth, kind.key), place)

    def _add(
        self, kind: Kind, link: Link, key: dict[str, Any], place: Found
    ) -> None:
        """Give a truth the row that it seems to lack."""
        truth = self._truth(kind, key)
        if not self._is_settled(truth) or not _fits(link, place, truth):
            return
        found = self._row(link, place)
        if link.fits(place, found):
            return
        if found is not None:
            other = _part(found, kind.key)
            if _fits(link, found, self._truth(kind, other)):
                self._conflict(link.table, key, other)
                return
        if not self._apply:
            self._found(link.table, 'missing', key)
            return
        written_at = (
            kind.stamp(truth)
            if kind.stamp
            else clock.to_micros(clock.utcnow())
        )
        self._put(link, place, truth['ttl_left'], written_at)
        if not _fits(link, place, self._truth(kind, key)):
            # Deleted meanwhile, perhaps before the row was added.
            self._db.run(
                link.delete_older, written_at=written_at, **link.key(place)
            )
            return
        if kind.rewrite and not self._is_there(link, place):
            self._db.batch(*kind.rewrite(truth, link))
        self._found(link.table, 'missing', key)
        if self._is_there(link, place):
            self._counts(link.table).mended += 1
        else:
            self._problem(
                f'{link.table}: the row of {kind.table} {_text(key)} is'
                ' hidden by a deletion with a later timestamp; check the'
                ' clocks.'
            )

    def _put(
        self, link: Link, place: Found, ttl: int | None, written_at: int
    ) -> None:
        if ttl is None:
            self._db.run(link.put, written_at=written_at, **place)
        else:
            self._db.run(
                link.put_expiring, ttl=ttl, written_at=written_at, **place
            )

    def _look_for_claims(
        self, kind: Kind, names: Names, truths: Sequence[Found]
    ) -> None:
        wanted = [
            (truth, key)
            for truth in truths
            if not kind.over(truth)
            for key in names.keys(self._db, truth)
        ]
        keys = (key for _, key in wanted)
        found = self._db.many(names.claims.get, names.claims.row, keys)
        for (truth, key), rows in zip(wanted, found, strict=True):
            (owner,) = _part(truth, kind.key).values()
            # A pending claim protects the name of a truth that is there.
            if [row['owner'] for row in rows] == [owner]:
                continue
            if self._is_young(truth['written_at']):
                self._counts(names.claims.table).young += 1
            else:
                self._claim(kind, names, owner, dict(key))

    def _claim(
        self, kind: Kind, names: Names, owner: str, key: dict[str, Any]
    ) -> None:
        """Give a truth the claim that it seems to lack."""
        claims = names.claims
        truth = self._owner(kind, owner)
        if (
            not self._is_settled(truth)
            or kind.over(truth)
            or not self._has(names, truth, key)
        ):
            return
        counts = self._counts(claims.table)
        claim = claims.settled(self._db, **key)
        if claim is not None:
            other = claim['owner']
            if other == owner:
                return
            if other is not None and self._owns(kind, names, other, key):
                self._conflict(claims.table, owner, other)
                return
            if other is None or self._is_young(_claimed_at(claim)):
                counts.young += 1  # others are at it, or it is half expired
                return
        if not self._apply:
            self._found(claims.table, 'missing', owner)
            return
        try:
            with claims.claimed(
                self._db,
                owner,
                exists=lambda other: self._owns(kind, names, other, key),
                undo=lambda: None,  # the truth stays
                ttl=truth['ttl_left'],
                **key,
            ):
                if not self._owns(kind, names, owner, key):
                    raise _Gone
            if not self._owns(kind, names, owner, key):
                # Unless it has come back in this moment, and holds it.
                claims.evict(
                    self._db,
                    owner,
                    exists=lambda owner: self._owns(kind, names, owner, key),
                    ttl=truth['ttl_left'],
                    **key,
                )
                raise _Gone
            counts.mended += 1
        except _Gone:
            return
        except Taken as taken:
            if self._owns(kind, names, owner, key):
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

    def _with_truths(
        self, kind: Kind, rows: list[dict[str, Any]], names: Iterable[str]
    ) -> Iterator[tuple[Found, Truth | None]]:
        """Yield each row with its truth as this region sees it.

        :param names: the columns that have the key of the truth.
        """
        columns = list(zip(kind.key, names, strict=True))
        keys = ({key: row[name] for key, name in columns} for row in rows)
        truths = self._db.many(kind.find, kind.row, keys)
        for row, found in zip(rows, truths, strict=True):
            yield row, next(filter(kind.is_born, found), None)

    def _truth(self, kind: Kind, key: Mapping[str, Any]) -> Truth | None:
        """Return a truth as any region may see it."""
        if kind.settle:
            # Ends what is in progress; what it is, is read next.
            self._db.one(kind.settle, kind.row, **key)
        truth = self._db.one(kind.find_everywhere, kind.row, **key)
        return truth if kind.is_born(truth) else None

    def _owner(self, kind: Kind, owner: str) -> Truth | None:
        (column,) = kind.key
        return self._truth(kind, {column: owner})

    def _owns(
        self, kind: Kind, names: Names, owner: str, key: Mapping[str, Any]
    ) -> bool:
        """Return whether any region knows this owner by this name."""
        return self._has(names, self._owner(kind, owner), key)

    def _has(
        self, names: Names, truth: Truth | None, key: Mapping[str, Any]
    ) -> bool:
        return truth is not None and key in names.keys(self._db, truth)

    def _row(self, link: Link, row: Found) -> dict[str, Any] | None:
        """Return what is in a row's place, as any region may see it."""
        return self._db.one(link.find_everywhere, link.row, **link.key(row))

    def _is_there(self, link: Link, row: Found) -> bool:
        return link.fits(row, self._row(link, row))

    def _is_young(self, written_at: int | None) -> bool:
        return written_at is not None and written_at > self._horizon

    def _is_settled(self, truth: Truth | None) -> TypeGuard[Truth]:
        """Return whether a truth should have all that follows from it."""
        return (
            truth is not None
            and not self._is_young(truth['written_at'])
            and not _expires(truth)
        )


def _fits(link: Link, row: Found, truth: Truth | None) -> bool:
    return truth is not None and any(
        link.fits(row, place) for place in link.rows(truth)
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
    """Return a truth's key for a line of text."""
    values = key.values() if isinstance(key, dict) else [key]
    return ' '.join(map(str, values))
