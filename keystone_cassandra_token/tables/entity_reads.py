# SPDX-License-Identifier: Apache-2.0
"""Reads of entities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keystone_cassandra_token.db import cql, escalation
from keystone_cassandra_token.db.changes import FETCH
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables import removals
from keystone_cassandra_token.tables.entity_statements import EntityStatements
from keystone_cassandra_token.tables.index import Index, Indexes

#: Entities in one read.  A read of each costs the server less and the client,
#: which is the slower one, several times as much.
AT_ONCE = 100

#: An entity if there is one, and whether it was deleted there.
Answer = tuple[dict[str, Any] | None, bool]


class EntityReads(EntityStatements):
    """One table of entities, to be read."""

    def __init__(
        self, table: str, row: Row, indexes: Indexes, **kind: Any
    ) -> None:
        super().__init__(table, row, indexes, **kind)
        if self.told:
            FETCH[table] = self._fetch

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

    def find_anywhere(
        self, db: Store, entity_id: str | None
    ) -> dict[str, Any] | None:
        """Return an entity, or None; one too that is only just made elsewhere.

        For what a client's request is to be shown, or logs in with.  Not for
        changes: what is not here cannot be changed here.
        """
        if not entity_id:
            return None
        stored = db.one(self.get, self.row, id=entity_id)
        if stored is None:
            return self.seek(db, entity_id)
        return stored if self.exists(stored) else None

    def seek(self, db: Store, entity_id: str) -> dict[str, Any] | None:
        """Seek an entity elsewhere, or return None.

        There must be no row of it here: a deletion leaves one.
        """
        if db.escalation is None:
            return None
        sought = self.sought(entity_id)
        if not self.is_noted:
            return db.escalation.ask(
                sought, lambda there: self.young(there, entity_id)
            )

        def look(there: Store) -> Answer:
            is_noted = removals.is_noted(there, self.table, entity_id)
            return self.young(there, entity_id), is_noted.result()

        found = db.escalation.ask_all(sought, look, _if_nobody_knows_better)
        if found is None:
            return None
        was_removed = removals.is_noted(db, self.table, entity_id).result()
        return None if was_removed else found

    def sought(self, entity_id: str) -> tuple[str, str]:
        """Return as what an entity is sought elsewhere."""
        return self.table, entity_id

    def young(self, db: Store, entity_id: str) -> dict[str, Any] | None:
        """Return an entity that was made a moment ago, or None.

        What is older has arrived, or may have been deleted elsewhere so long
        ago that nobody knows of it any more.
        """
        found = self.find(db, entity_id)
        is_young = found is not None and escalation.is_born(found['born'])
        return found if is_young else None

    def find_all(self, db: Store, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return those of the entities that exist, in the order of ids."""
        wanted = [each for each in ids if each]  # as in find
        get, row = self.get, self.row
        known = {each: db.known(get, row, id=each) for each in wanted}
        missing = [each for each, rows in known.items() if rows is None]
        some = (
            {'ids': missing[begin : begin + AT_ONCE]}
            for begin in range(0, len(missing), AT_ONCE)
        )
        found = {
            entity['id']: entity
            for entities in (
                *db.many(self.get_some, self.row, some),
                *known.values(),
            )
            for entity in entities or ()
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

    def find_by(
        self, db: Store, index: Index, value: str
    ) -> list[dict[str, Any]]:
        """Return the entities that have a value now."""
        return [
            entity
            for entity in self.find_all(db, index.ids(db, value))
            if value in index.values(entity)
        ]

    def news(self, entity: Mapping[str, Any]) -> dict[str, Any]:
        """Return what tells other datacenters that an entity has changed.

        Empty if nobody needs to be told.
        """
        return {name: entity[name] for name in self.told}

    def _fetch(self, db: Store, keys: Sequence[Mapping[str, Any]]) -> None:
        """Make changes of entities readable in this datacenter."""
        if self.single_partition:
            db.rows(self.get_all_everywhere, self.row)
        else:
            ids = dict.fromkeys(key['id'] for key in keys)
            db.many(self.get_everywhere, self.row, ({'id': x} for x in ids))


def _if_nobody_knows_better(
    answers: Iterable[Answer],
) -> dict[str, Any] | None:
    """Return the first entity, None if one of the answers says it is gone."""
    found = None
    for entity, was_removed in answers:
        if was_removed:
            return None
        found = found or entity
    return found
