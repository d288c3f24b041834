# SPDX-License-Identifier: Apache-2.0
"""Associations of projects with what they have been given.

By project is the truth; the other table holds ids.  Both are written as
memberships are: made and removed conditionally, so that a removal counts
whatever the clocks of two servers say, the row of the other table before the
truth and removed after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.cql import mutate, mutate_read, read, write
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store, created, deleted
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.index import ALL_SHARDS, Link, shard_of

Pair = dict[str, Any]


class Association:
    """What projects have been given of one kind.

    :param table: the truth; the other table is ``<table>_by_<kind>``.
    :param column: the column of what is given.
    """

    def __init__(self, table: str, column: str) -> None:
        kind = column.removesuffix('_id')
        where = f'project_id = :project_id AND {column} = :{column}'
        self._column = column
        self._row = Row('project_id', column, 'incarnation')
        self._listed = Row(column, 'shard', 'project_id', 'incarnation')
        self.list = read(
            f'SELECT {self._row} FROM {table} WHERE project_id = :project_id'
        )
        self.get = read(f'SELECT {self._row} FROM {table} WHERE {where}')
        self.settle = mutate_read(
            f'SELECT {self._row} FROM {table} WHERE {where}'
        )
        # A removal must count whatever the clocks say.
        self.insert = mutate(
            f'INSERT INTO {table} ({self._row}) VALUES ({self._row.markers})'
            ' IF NOT EXISTS'
        )
        self.delete = mutate(
            f'DELETE FROM {table} WHERE {where} IF incarnation = :seen'
        )
        self.list_projects = read(
            f'SELECT {self._listed} FROM {table}_by_{kind}'
            f' WHERE {column} = :{column} AND shard IN :shards'
        )
        self.insert_listed = write(
            f'INSERT INTO {table}_by_{kind} ({self._listed})'
            f' VALUES ({self._listed.markers})'
        )
        self.delete_listed = write(
            f'DELETE FROM {table}_by_{kind} WHERE {column} = :{column}'
            ' AND shard = :shard AND project_id = :project_id'
            ' AND incarnation = :incarnation'
        )
        self.kind = Kind(
            table,
            self._row,
            key=['project_id', column],
            links=[
                Link(
                    f'{table}_by_{kind}',
                    self._listed,
                    self._listed.columns,
                    lambda pair: [self._key(pair)],
                )
            ],
        )

    def add(self, db: Store, given_id: str, project_id: str) -> bool:
        """Give it to a project; return whether it had it not.

        :raises OutcomeUnknown: if that cannot be found out; doing it again
            does no harm.
        """
        new = {
            'project_id': project_id,
            self._column: given_id,
            'incarnation': clock.incarnation(),
        }
        db.run(self.insert_listed, **self._key(new))
        outcome = db.cas_settled(
            self.insert, self.settle, created(new['incarnation']), **new
        )
        if not outcome:
            db.run(self.delete_listed, **self._key(new))
        return bool(outcome)

    def find(self, db: Store, given_id: str, project_id: str) -> Pair | None:
        """Return an association, or None."""
        pair = self._pair(given_id, project_id)
        return db.one(self.get, self._row, **pair)

    def remove(self, db: Store, given_id: str, project_id: str) -> bool:
        """Take it from a project; return whether it had it.

        :raises OutcomeUnknown: as :meth:`add`.
        """
        found = self.find(db, given_id, project_id)
        return found is not None and self._discard(db, found)

    def ask_of_project(
        self, db: Store, project_id: str
    ) -> Callable[[], list[str]]:
        """Ask for what a project has; return a function that waits for it."""
        rows = db.ask_all(self.list, self._row, project_id=project_id)
        return lambda: [row[self._column] for row in rows()]

    def of_project(self, db: Store, project_id: str) -> list[dict[str, str]]:
        """Return a project's associations, as Keystone sees them."""
        found = self.ask_of_project(db, project_id)()
        return [self._pair(given_id, project_id) for given_id in found]

    def projects(self, db: Store, given_id: str) -> list[dict[str, str]]:
        """Return the associations of what is given, as Keystone sees them."""
        return [
            self._pair(given_id, row['project_id'])
            for row in self._given(db, given_id)
        ]

    def remove_project(self, db: Store, project_id: str) -> None:
        """Take from a project all that it has."""
        for row in db.rows(self.list, self._row, project_id=project_id):
            self._discard(db, row)

    def remove_given(self, db: Store, given_id: str) -> None:
        """Take it from all projects."""
        for row in self._given(db, given_id):
            self._discard(db, row)

    def _given(self, db: Store, given_id: str) -> list[Pair]:
        listed = db.rows(
            self.list_projects,
            self._listed,
            shards=ALL_SHARDS,
            **{self._column: given_id},
        )
        projects = dict.fromkeys(row['project_id'] for row in listed)
        keys = (self._pair(given_id, project_id) for project_id in projects)
        found = db.many(self.get, self._row, keys)
        return [row for rows in found for row in rows]

    def _discard(self, db: Store, pair: Mapping[str, Any]) -> bool:
        """Remove this incarnation of an association alone."""
        key = self._pair(pair[self._column], pair['project_id'])
        seen = pair['incarnation']
        gone = db.cas_settled(
            self.delete, self.settle, deleted(seen), seen=seen, **key
        )
        db.run(self.delete_listed, **self._key(pair))
        return bool(gone)

    def _pair(self, given_id: str, project_id: str) -> dict[str, str]:
        return {self._column: given_id, 'project_id': project_id}

    def _key(self, pair: Mapping[str, Any]) -> dict[str, Any]:
        names = (self._column, 'project_id', 'incarnation')
        return {name: pair[name] for name in names} | {
            'shard': shard_of(pair['project_id'])
        }
