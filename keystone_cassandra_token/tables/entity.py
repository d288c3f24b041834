# SPDX-License-Identifier: Apache-2.0
"""Entities: rows that are written by conditional statements only.

A plain write after a deletion would make a ghost row.  A plain write from a
server whose clock is ahead would hide the changes of the next seconds.  So an
entity is created, changed and deleted by compare-and-set on its
``incarnation``, which changes when an id is used again and each time that the
entity moves in an index.

::

    create:  index rows -> entity
    change:  new index rows -> entity -> index rows that it left
    delete:  entity -> index rows

A crash leaves at most index rows that do not match their entity; readers skip
them.  A compare-and-set whose reply is lost is settled by a serial read.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

from keystone_cassandra_token.db import clock, cql, parts
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.outcome import Applied, created
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import KEEP, Store
from keystone_cassandra_token.tables.index import Index, Indexes

#: Entities in one read.  A read of each costs the server less and the client,
#: which is the slower one, several times as much.
AT_ONCE = 100

Changes = Mapping[str, Any]


class Entity:
    """One table of entities.

    :param table: its name.
    :param row: its columns but for ``incarnation``; ``id`` among them.  A row
        without one of those that are required is a ghost row: what a change
        in another datacenter, in the moment of the deletion, has left of an
        entity.
    :param indexes: its index tables.
    :param guarded: columns whose new value is made from the one that was
        read: a change of one is a new incarnation, so that of two at once
        the later one is made again.
    :param written_elsewhere: columns that other statements write, plainly.
    :param expiring: whether it can be created with a TTL.  Then it cannot be
        changed: cells that are written later would outlive their row.
    :param single_partition: whether all are in one partition, ``bucket`` 0;
        for hundreds that are often wanted all at once.
    """

    get_all: cql.Statement
    settle_all: cql.Statement

    update: cql.Statement
    insert_expiring: cql.Statement
    revive: cql.Statement

    def __init__(
        self,
        table: str,
        row: Row,
        indexes: Indexes,
        *,
        guarded: Collection[str] = (),
        written_elsewhere: Collection[str] = (),
        expiring: bool = False,
        single_partition: bool = False,
    ) -> None:
        self.table = table
        row |= Row('incarnation')
        # A column that is written elsewhere can outlive its row, too.
        self.required = (
            'incarnation',
            *(name for name in row.required if not row.columns[name].secret),
        )
        self.row = row
        self.indexes = indexes
        self.single_partition = single_partition
        self._map_columns = frozenset(
            name for name, column in row.columns.items() if column.is_map
        )
        self.guarded = frozenset(guarded)
        self._written = [
            name for name in row.columns if name not in written_elsewhere
        ]
        self._changing = [name for name in self._written if name != 'id']
        where = 'id = :id'
        columns = ', '.join(self._written)
        markers = ', '.join(f':{name}' for name in self._written)
        if single_partition:
            where = f'bucket = 0 AND {where}'
            columns, markers = f'bucket, {columns}', f'0, {markers}'
            self.get_all = cql.read(
                f'SELECT {row} FROM {table} WHERE bucket = 0'
            )
            self.settle_all = cql.lwt_local_read(self.get_all.cql)
        some = where.replace('= :id', 'IN :ids')
        self.get = cql.read(f'SELECT {row} FROM {table} WHERE {where}')
        self.get_some = cql.read(
            f'SELECT {row} FROM {table} WHERE {some}'
        ).unpaged()
        self.settle = cql.lwt_local_read(
            f'SELECT {row} FROM {table} WHERE {where}'
        )
        self.insert = cql.lwt_local(
            f'INSERT INTO {table} ({columns}) VALUES ({markers}) IF NOT EXISTS'
        )
        if expiring:
            self.insert_expiring = self.insert.expiring()
        else:
            assignments = ', '.join(
                f'{name} = {name} + :{name}'
                if name in self._map_columns
                else f'{name} = :{name}'
                for name in self._changing
            )
            self.update = cql.lwt_local(
                f'UPDATE {table} SET {assignments} WHERE {where}'
                ' IF incarnation = :seen'
            )
            # A ghost row keeps IF NOT EXISTS from seeing that there is none.
            self.revive = cql.lwt_local(
                f'UPDATE {table} SET '
                + ', '.join(f'{name} = :{name}' for name in self._changing)
                + f' WHERE {where} IF incarnation = :seen'
            )
        self.delete = cql.lwt_local(
            f'DELETE FROM {table} WHERE {where} IF incarnation = :seen'
        )

    def find(
        self,
        db: Store,
        entity_id: str | None,
        read: cql.Statement | None = None,
    ) -> dict[str, Any] | None:
        """Return an entity, or None; without an id there is none.

        :param read: another read of its columns by id.
        """
        if not entity_id:
            return None  # Cassandra rejects it
        found = db.one(read or self.get, self.row, id=entity_id)
        return found if found and self.exists(found) else None

    def find_all(self, db: Store, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return those of the entities that exist, in the order of ids."""
        wanted = [each for each in ids if each]  # as in find
        some = (
            {'ids': wanted[begin : begin + AT_ONCE]}
            for begin in range(0, len(wanted), AT_ONCE)
        )
        found = {
            entity['id']: entity
            for entities in db.many(self.get_some, self.row, some)
            for entity in entities
            if self.exists(entity)
        }
        return [found[each] for each in wanted if each in found]

    def all(self, db: Store) -> list[dict[str, Any]]:
        """Return all entities that are kept together, by id."""
        return self.all_async(db).result()

    def all_settled(self, db: Store) -> list[dict[str, Any]]:
        """Return :meth:`all`, once what others are doing with one is done."""
        return list(filter(self.exists, db.rows(self.settle_all, self.row)))

    def all_async(self, db: Store) -> Future[list[dict[str, Any]]]:
        """Ask for :meth:`all`."""
        answer = db.rows_async(self.get_all, self.row)
        return answer.then(lambda found: list(filter(self.exists, found)))

    def scanned(
        self, db: Store, scan: cql.Statement
    ) -> Iterator[dict[str, Any]]:
        """Yield all entities, by a scan of the table."""
        return filter(self.exists, db.iterate(scan, self.row))

    def find_all_async(
        self, db: Store, ids: Collection[str]
    ) -> Future[list[dict[str, Any]]]:
        """Ask for ``AT_ONCE`` entities at most, as :meth:`all_async`."""
        answer = db.rows_async(self.get_some, self.row, ids=list(ids))
        return answer.then(lambda found: list(filter(self.exists, found)))

    def exists(self, stored: Mapping[str, Any]) -> bool:
        """Return whether a row is an entity, and no ghost row."""
        return all(stored[name] is not None for name in self.required)

    def find_by(
        self, db: Store, index: Index, value: str
    ) -> list[dict[str, Any]]:
        """Return the entities that have a value now."""
        return [
            entity
            for entity in self.find_all(db, index.ids(db, value))
            if value in index.values(entity)
        ]

    def new(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entity that is yet to be created.

        :param values: by column; one that is missing is None.
        """
        return {
            **dict.fromkeys(self.row.columns),
            **values,
            'incarnation': clock.incarnation(),
        }

    def create(
        self, db: Store, new: dict[str, Any], ttl: int | None = None
    ) -> bool:
        """Create an entity; return whether its id was free.

        :param new: from :meth:`new`.
        :param ttl: seconds after which it expires; None is never.
        :raises OutcomeUnknown: if that cannot be found out; it is safe to
            retry.
        """
        self._write(db, self.indexes.inserts(new, ttl))
        stored = self.row.encode({name: new[name] for name in self._written})
        insert = self.insert
        if ttl is not None:
            stored['ttl'] = ttl
            insert = self.insert_expiring
        applied = self._applied(created(new['incarnation']))
        outcome = db.cas_settled(insert, self.settle, applied, **stored)
        if not outcome and not self.exists(outcome.row):
            seen = outcome.row['incarnation']
            outcome = db.cas_settled(
                self.revive, self.settle, applied, seen=seen, **stored
            )
        if not outcome:
            self._write(db, self.indexes.deletes(new))
        return bool(outcome)

    def create_all(self, db: Store, new: Sequence[dict[str, Any]]) -> bool:
        """Create several entities; return whether all their ids were free.

        Those that are kept together are made by one request, all or none.
        Of others some may have been made: their creator discards them.

        :param new: each from :meth:`new`; no two have one id.
        :raises OutcomeUnknown: as :meth:`create`.
        """
        if not self.single_partition:
            return all(parts.each(db, self.create, new))
        steps = [step for each in new for step in self.indexes.inserts(each)]
        self._write(db, steps)
        stored = [
            self.row.encode({name: each[name] for name in self._written})
            for each in new
        ]
        return bool(
            db.cas_batch_settled(
                *((self.insert, each) for each in stored),
                settle=self.settle,
                applied=self._applied(
                    created(*(each['incarnation'] for each in new))
                ),
                rows=stored,
            )
        )

    def change(
        self,
        db: Store,
        entity_id: str,
        changes: Changes | Callable[[dict[str, Any]], Changes],
    ) -> dict[str, Any] | None:
        """Change an entity; return what it has become, None if it is gone.

        :param changes: values by column, of a map the entries to set; or a
            function that returns them for what the entity is now.
        :raises OutcomeUnknown: if it cannot be found out whether it was
            changed; it is safe to retry.
        :raises Contended: if too many others change it at once.
        """
        attempts = self.attempts(entity_id)
        while attempts.another():
            old = self.find(db, entity_id)
            if old is None:
                return None
            wanted = changes(old) if callable(changes) else changes
            new = self._changed(old, wanted)
            if self._moved(old, new):
                new['incarnation'] = clock.incarnation()
                self._write(db, self.indexes.inserts(new))
            if self._replace(db, old, new, wanted):
                if self._moved(old, new):
                    self._write(db, self.indexes.deletes(old))
                return new
            if self._moved(old, new):
                self._write(db, self.indexes.deletes(new))

    def touch(self, db: Store, entity_id: str) -> bool:
        """Let it have an incarnation that is later than this call.

        One that another gives it meanwhile will do as well: the serial read
        has seen those before it.  So many of them do not contend.

        :returns: whether it is there.
        :raises OutcomeUnknown: as :meth:`change`.
        """
        old = self.find(db, entity_id, self.settle)
        if old is None:
            return False
        changes = {'incarnation': clock.incarnation()}
        if self._replace(db, old, {**old, **changes}, changes):
            return True
        return self.find(db, entity_id, self.settle) is not None

    def remove(self, db: Store, entity_id: str, **having: object) -> bool:
        """Delete an entity; return whether it was there.

        :param having: values that it must have at that moment, by column.
        :raises OutcomeUnknown: if that cannot be found out; it is safe to
            retry.
        :raises Contended: if too many others change it at once.
        """
        attempts = self.attempts(entity_id)
        while attempts.another():
            old = self.find(db, entity_id)
            if old is None or any(
                old[name] != value for name, value in having.items()
            ):
                return False
            if self.discard(db, old):
                return True

    def discard(self, db: Store, entity: Mapping[str, Any]) -> bool:
        """Delete this incarnation of an entity alone.

        Return whether it was there.

        :raises OutcomeUnknown: as :meth:`remove`.
        """
        seen = entity['incarnation']

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return True
            # With another incarnation it was changed, or has come back.
            return None if row['incarnation'] == seen else False

        gone = db.cas_settled(
            self.delete,
            self.settle,
            self._applied(applied),
            id=entity['id'],
            seen=seen,
        )
        self._write(db, self.indexes.deletes(entity))
        return bool(gone)

    def attempts(self, entity_id: object) -> Attempts:
        """Return attempts at a change of an entity."""
        return Attempts(self.table.replace('_', ' '), entity_id)

    def _changed(
        self, old: dict[str, Any], changes: Changes
    ) -> dict[str, Any]:
        return old | {
            name: (old[name] or {}) | value
            if name in self._map_columns
            else value
            for name, value in changes.items()
        }

    def _moved(self, old: dict[str, Any], new: dict[str, Any]) -> bool:
        return self.indexes.place(old) != self.indexes.place(new) or any(
            old[name] != new[name] for name in self.guarded
        )

    def _replace(
        self,
        db: Store,
        old: dict[str, Any],
        new: dict[str, Any],
        changes: Changes,
    ) -> bool:
        """Write the changes; return False if another change was first."""
        seen = old['incarnation']
        binds = dict.fromkeys(self._changing, KEEP) | {
            name: value
            for name, value in self.row.encode(changes).items()
            if value is not None or name not in self._map_columns
        }
        if new['incarnation'] != seen:
            binds['incarnation'] = new['incarnation']

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return False
            if row['incarnation'] != new['incarnation']:
                # As it was: not made, or overwritten since.
                return None if row['incarnation'] == seen else False
            if new['incarnation'] != seen:
                return True
            # A change of what keeps the incarnation: nobody can tell, if it
            # is not what it should be.
            found = self.row.load(row)
            made = all(
                (found[name] or None) == (new[name] or None)
                if name in self._map_columns  # an empty one is not stored
                else found[name] == new[name]
                for name in changes
            )
            return made or None

        return bool(
            db.cas_settled(
                self.update,
                self.settle,
                self._applied(applied),
                id=old['id'],
                seen=seen,
                **binds,
            )
        )

    def _applied(self, applied: Applied) -> Applied:
        """Return what tells of an entity, to which a ghost row is none."""
        return lambda row: applied(row if row and self.exists(row) else None)

    @staticmethod
    def _write(db: Store, steps: list[Any]) -> None:
        if steps:
            db.batch(*steps)
