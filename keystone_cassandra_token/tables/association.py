# SPDX-License-Identifier: Apache-2.0
"""Associations: who has been given what.

A row is a key, its holder first, and an incarnation.  It is made and removed
conditionally, and never changed, so that a removal counts whatever the clocks
of two servers say.  Where it is also listed by what is given, a second table
holds ids::

    add:     listed row -> association
    remove:  association -> listed row

A crash leaves at most a listed row without an association.  Readers look for
the association, so they skip it.

What is given, or its holder, can be deleted at that moment.  No foreign key
forbids it; the order of writes on both sides does::

    add:     look for it -> association -> look again, and take it back if
             it is gone
    delete:  the entity -> its associations

Each looks after it has written, so that one of the two sees the other.  What
a crash leaves, or another datacenter that has not heard of a deletion adds,
refers to what is gone: readers leave that out.  So a deletion wins.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keystone_cassandra_token.db import changes, clock, errors, parts
from keystone_cassandra_token.db.cql import (
    Statement,
    escalated_read,
    lwt_global,
    lwt_global_read,
    lwt_local,
    lwt_local_read,
    read,
    write,
)
from keystone_cassandra_token.db.outcome import Outcome, created, deleted
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.index import (
    ALL_SHARDS,
    DerivedTable,
    shard_of,
)

#: Rows in one conditional batch.
_AT_ONCE = 50

#: A row as it was read.
Pair = dict[str, Any]


class Association:
    """One table of associations.

    :param table: its name.
    :param key: the columns of its primary key: the holder's first, that of
        what is given last.
    :param listed: the table that lists by what is given, sharded by holder;
        None where nobody asks for that.
    :param everywhere: whether all datacenters agree on each change, so that
        one that is cut off can make none; else its own one does.
    :param single_partition: whether all are in one partition, ``bucket`` 0;
        for hundreds that are often wanted all at once.
    """

    get_all: Statement

    listed_row: Row
    list_holders: Statement
    insert_listed: Statement
    delete_listed: Statement

    def __init__(
        self,
        table: str,
        key: Row,
        *,
        listed: str | None = None,
        everywhere: bool = False,
        single_partition: bool = False,
    ) -> None:
        names = tuple(key.columns)
        holder, given = names[0], names[-1]
        self.row = key | Row('incarnation')
        self._table = table
        self._key, self._holder, self._given = names, holder, given
        self._links: list[DerivedTable] = []
        columns, markers = str(self.row), self.row.markers
        at = f'{holder} = :{holder}'
        where = ' AND '.join(f'{name} = :{name}' for name in names)
        select = f'SELECT {self.row} FROM {table} WHERE '
        if single_partition:
            columns, markers = f'bucket, {columns}', f'0, {markers}'
            at, where = f'bucket = 0 AND {at}', f'bucket = 0 AND {where}'
            self.get_all = read(f'{select}bucket = 0')
        self.list = read(select + at)
        self.get = read(select + where)
        self.get_everywhere = escalated_read(select + where)
        self.list_everywhere = escalated_read(select + at)
        changes.FETCH[table] = self.fetch
        self._settling = lwt_global_read if everywhere else lwt_local_read
        conditional = lwt_global if everywhere else lwt_local
        self.settle = self._settling(select + where)
        # A removal must count whatever the clocks say.
        self.insert = conditional(
            f'INSERT INTO {table} ({columns}) VALUES ({markers}) IF NOT EXISTS'
        )
        self.delete = conditional(
            f'DELETE FROM {table} WHERE {where} IF incarnation = :seen'
        )
        if listed:
            self.listed_row = row = Row(given, 'shard', holder, 'incarnation')
            self.list_holders = read(
                f'SELECT {row} FROM {listed}'
                f' WHERE {given} = :{given} AND shard IN :shards'
            )
            self.insert_listed = write(
                f'INSERT INTO {listed} ({row}) VALUES ({row.markers})'
            )
            self.delete_listed = write(
                f'DELETE FROM {listed} WHERE '
                + ' AND '.join(f'{name} = :{name}' for name in row.columns)
            )
            self._links = [
                DerivedTable(
                    listed,
                    row,
                    row.columns,
                    lambda pair: [self._listing(pair)],
                )
            ]

    def derived(self) -> DerivedTables:
        """Return what follows from an association."""
        return DerivedTables(
            self._table,
            self.row,
            key=self._key,
            settle=self._settling,
            tables=self._links,
        )

    def key(self, pair: Mapping[str, Any]) -> dict[str, Any]:
        """Return an association without its incarnation."""
        return {name: pair[name] for name in self._key}

    def add(self, db: Store, **key: Any) -> bool:
        """Make an association; return whether there was none.

        :raises OutcomeUnknown: if that cannot be found out; it is safe to
            retry.
        """
        return self._add(db, key) is not None

    def add_checked(
        self, db: Store, check: Callable[[], object], **key: Any
    ) -> bool:
        """Make an association of what others may be deleting.

        :param check: raises if what it refers to is not there.  Before, so
            that nothing is written for nothing; and after, since who deletes
            that may have looked too early to see the association.
        :returns: as :meth:`add`.
        :raises StoreUnavailable: if it may be there; it is safe to retry.
        """
        check()
        made = self._add(db, key)
        if made is None:
            return False
        try:
            check()
        except errors.StoreUnavailable:
            raise
        except Exception:
            self.discard(db, made)
            raise
        return True

    def _add(self, db: Store, key: Mapping[str, Any]) -> Pair | None:
        """Make an association; return it, None if there was one."""
        new = {**key, 'incarnation': clock.incarnation()}
        if self._links:
            db.run(self.insert_listed, **self._listing(new))
        made = self.create(db, new)
        if self._links and not made:
            db.run(self.delete_listed, **self._listing(new))
        return new if made else None

    def create(self, db: Store, new: Mapping[str, Any]) -> Outcome:
        """Write the row of an association alone, if there is none.

        :raises OutcomeUnknown: as :meth:`add`.
        """
        made = created(new['incarnation'])
        return changes.telling(
            db,
            self._table,
            self.key(new),
            lambda: db.cas_settled(self.insert, self.settle, made, **new),
        )

    def find(self, db: Store, **key: Any) -> Pair | None:
        """Return an association, or None."""
        return db.one(self.get, self.row, **key)

    def remove(self, db: Store, **key: Any) -> bool:
        """Remove an association; return whether there was one.

        :raises OutcomeUnknown: as :meth:`add`.
        """
        found = self.find(db, **key)
        return found is not None and self.discard(db, found)

    def discard(self, db: Store, pair: Mapping[str, Any]) -> bool:
        """Remove an association as it was found; return whether it was there.

        :raises OutcomeUnknown: as :meth:`add`.
        """
        delete, binds = self.deletion(pair)
        gone = deleted(pair['incarnation'])
        outcome = changes.telling(
            db,
            self._table,
            self.key(pair),
            lambda: db.cas_settled(delete, self.settle, gone, **binds),
        )
        if self._links:
            db.run(self.delete_listed, **self._listing(pair))
        return bool(outcome)

    def deletion(
        self, pair: Mapping[str, Any]
    ) -> tuple[Statement, dict[str, Any]]:
        """Return what deletes the row of an association, as it was found."""
        return self.delete, self.key(pair) | {'seen': pair['incarnation']}

    def of_async(
        self, db: Store, holder_id: str
    ) -> Future[list[dict[str, Any]]]:
        """Ask for what a holder has."""
        return db.rows_async(self.list, self.row, **{self._holder: holder_id})

    def of(self, db: Store, holder_id: str) -> list[Pair]:
        """Return what a holder has."""
        return self.of_async(db, holder_id).result()

    def having(self, db: Store, given_id: str) -> list[Pair]:
        """Return who has been given it."""
        listed = db.rows(
            self.list_holders,
            self.listed_row,
            shards=ALL_SHARDS,
            **{self._given: given_id},
        )
        keys = ({name: row[name] for name in self._key} for row in listed)
        distinct = {tuple(key.values()): key for key in keys}
        found = db.many(self.get, self.row, distinct.values())
        return [row for rows in found for row in rows]

    def remove_of(self, db: Store, holder_id: str) -> None:
        """Take from a holder all that it has."""
        self.discard_all(db, self.of(db, holder_id))

    def discard_all(self, db: Store, pairs: Iterable[Pair]) -> None:
        """Remove associations of one holder as they were found.

        Together, since they are in one partition, where each by itself would
        wait for the others.
        """
        remaining = iter(pairs)
        while some := list(itertools.islice(remaining, _AT_ONCE)):
            if not self.delete_together(db, some):
                # One was removed, or made again: look at each.
                for pair in some:
                    self.discard(db, pair)
            elif self._links:
                db.run_each(
                    *((self.delete_listed, self._listing(p)) for p in some)
                )

    def delete_together(self, db: Store, pairs: list[Pair]) -> bool:
        """Delete the rows of one holder; return whether all were there.

        Otherwise none was deleted, or nobody can tell.
        """
        holder = {self._holder: pairs[0][self._holder]}
        try:
            deleted = changes.telling(
                db,
                self._table,
                holder,
                lambda: db.cas_batch(*map(self.deletion, pairs)),
            )
            return bool(deleted)
        except errors.OutcomeUnknown:
            return False  # deleting what may be gone is no harm

    def remove_having(self, db: Store, given_id: str) -> None:
        """Take it from all who have it."""
        parts.each(db, self.discard, self.having(db, given_id))

    def fetch(self, db: Store, keys: Sequence[changes.Key]) -> None:
        """Make changes readable here: of one key, or of all of a holder."""
        of_holders = [each for each in keys if each.keys() == {self._holder}]
        of_one = [each for each in keys if each not in of_holders]
        db.many(self.list_everywhere, self.row, of_holders)
        db.many(self.get_everywhere, self.row, of_one)

    def _listing(self, pair: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row that lists an association by what is given."""
        values = {**pair, 'shard': shard_of(pair[self._holder])}
        return {name: values[name] for name in self.listed_row.columns}
