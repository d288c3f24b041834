# SPDX-License-Identifier: Apache-2.0
"""Index tables: the ids of entities by one of their columns.

The entity is the source of truth, an index holds ids only.  On creation index
rows go first and the entity last, on deletion the entity first: a crash leaves
at most an index row without an entity, which readers skip, as they skip one
whose entity has another value by now.

If an id can be used again after a deletion, or an entity can move from one
value to another, index rows carry its ``incarnation``, which differs in each
case.  So no process deletes a row that another has written since, whatever
their clocks say.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.cql import (
    Statement,
    escalated_read,
    read,
    scan,
    write,
)
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.sender import Step
from keystone_cassandra_token.db.store import Store

SHARDS = 16
ALL_SHARDS = list(range(SHARDS))
#: Values in one read.
_AT_ONCE = 100
_ID = Row('id')


def shard_of(entity_id: str) -> int:
    """Return the shard of an id, 0 to ``SHARDS`` - 1."""
    return zlib.crc32(entity_id.encode()) % SHARDS


class DerivedTable:
    """A table whose rows are derived from base rows, and from nothing else.

    Its statements are those of ``keystone-cassandra reconcile``.

    :param name: its name.
    :param row: its columns; those that are the key of the base row have their
        names there.
    :param key: the columns of its primary key.
    :param rows: returns the rows that a base row has here.
    :param ignored: columns that may have another value than those rows.
    """

    def __init__(
        self,
        name: str,
        row: Row,
        key: Collection[str],
        rows: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]],
        ignored: Collection[str] = (),
    ) -> None:
        self.name = name
        self.row = row
        self.rows = rows
        self._key = tuple(key)
        self._compared = [
            column for column in row.columns if column not in ignored
        ]
        where = ' AND '.join(f'{column} = :{column}' for column in key)
        # A row of key columns only has no timestamp to read.
        aged = [
            f'WRITETIME({column}) AS written_at'
            for column in row.columns
            if column not in key
        ]
        columns = ', '.join([*row.columns, *aged[:1]])
        # Each of them is compared with its base row.
        self.all = scan(f'SELECT {columns} FROM {name}')
        self.find = read(f'SELECT {columns} FROM {name} WHERE {where}')
        self.find_everywhere = escalated_read(self.find.cql)
        self.put = write(
            f'INSERT INTO {name} ({row}) VALUES ({row.markers})'
            ' USING TIMESTAMP :written_at'
        )
        self.put_expiring = write(
            f'INSERT INTO {name} ({row}) VALUES ({row.markers})'
            ' USING TTL :ttl AND TIMESTAMP :written_at'
        )
        # Spares what was written later, whoever wrote it.
        self.delete_older = write(
            f'DELETE FROM {name} USING TIMESTAMP :written_at WHERE {where}'
        )

    def key(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the primary key of a row."""
        return {name: row[name] for name in self._key}

    def fits(
        self, row: Mapping[str, Any], other: Mapping[str, Any] | None
    ) -> bool:
        """Return whether two rows say the same."""
        return other is not None and all(
            row[name] == other[name] for name in self._compared
        )


class Index(DerivedTable):
    """Statements of one index table.

    :ivar list_some: reads several values at once, where it is not sharded.

    :param table: its name.
    :param column: the column by which it lists.
    :param sharded: whether a partition is a value and a shard, a hash of the
        id; for values that millions of entities can have.
    :param versioned: whether its rows carry the incarnation.
    :param values_of: returns the values by which an entity is listed, where
        that is not the one value of the column.
    """

    list_some: Statement

    def __init__(
        self,
        table: str,
        column: str,
        *,
        sharded: bool = True,
        versioned: bool = False,
        values_of: Callable[[Mapping[str, Any]], Collection[str]]
        | None = None,
    ) -> None:
        self.column = column
        self._values_of = values_of
        self._sharded = sharded
        self._versioned = versioned
        partition = [column, 'shard'] if sharded else [column]
        names = [*partition, 'id', *(['incarnation'] if versioned else [])]
        where = ' AND '.join(f'{name} = :{name}' for name in names)
        super().__init__(table, Row(*names), names, self.keys)
        self.list = read(
            f'SELECT id FROM {table} WHERE {column} = :{column}'
            + (' AND shard IN :shards' if sharded else '')
        )
        if not sharded:
            self.list_some = read(
                f'SELECT id FROM {table} WHERE {column} IN :{column}s'
            ).unpaged()
        at = ' AND '.join(f'{name} = :{name}' for name in partition)
        self.page = read(
            f'SELECT id FROM {table} WHERE {at} AND id > :after LIMIT :most'
        )
        self.insert = write(
            f'INSERT INTO {table} ({", ".join(names)}) VALUES'
            f' ({", ".join(f":{name}" for name in names)})'
        )
        self.insert_expiring = self.insert.expiring()
        self.delete = write(f'DELETE FROM {table} WHERE {where}')

    def ids(self, db: Store, value: str) -> list[str]:
        """Return the ids of a value, each once; some may be out of date."""
        shards = {'shards': ALL_SHARDS} if self._sharded else {}
        found = db.rows(self.list, _ID, **{self.column: value}, **shards)
        return list(dict.fromkeys(row['id'] for row in found))

    def ids_of_some(self, db: Store, values: Iterable[str]) -> list[str]:
        """Return the ids of several values, as :meth:`ids`.

        Each read asks for many: most values have few ids, or none.
        """
        wanted = list(values)
        found = db.many(
            self.list_some,
            _ID,
            (
                {f'{self.column}s': wanted[begin : begin + _AT_ONCE]}
                for begin in range(0, len(wanted), _AT_ONCE)
            ),
        )
        return list(dict.fromkeys(row['id'] for rows in found for row in rows))

    def ids_after(
        self, db: Store, value: str, marker: str | None, most: int
    ) -> Iterator[str]:
        """Yield the ids of a value in order, each once.

        What it reads grows with what is taken, not with what there is.

        :param marker: the id after which to begin; None for the first.
        :param most: how many will be taken, about.
        """
        chunk = max(8, 2 * most // SHARDS)
        first = db.many(
            self.page,
            _ID,
            (
                {self.column: value, 'shard': shard}
                | {'after': marker or '', 'most': chunk}
                for shard in ALL_SHARDS
            ),
        )
        merged = heapq.merge(
            *(
                self._stream(
                    db, {self.column: value, 'shard': shard}, page, chunk
                )
                for shard, page in zip(ALL_SHARDS, first, strict=True)
            )
        )
        for entity_id, _ in itertools.groupby(merged):
            yield entity_id

    def _stream(
        self,
        db: Store,
        partition: dict[str, Any],
        page: list[dict[str, Any]],
        chunk: int,
    ) -> Iterator[str]:
        """Yield the ids of a partition, whose first page is read."""
        while True:
            yield from (row['id'] for row in page)
            if len(page) < chunk:
                return
            page = db.rows(
                self.page,
                _ID,
                after=page[-1]['id'],
                most=chunk,
                **partition,
            )

    def values(self, entity: Mapping[str, Any]) -> Collection[str]:
        """Return the values by which an entity is listed."""
        if self._values_of is not None:
            return self._values_of(entity)
        value = entity[self.column]
        return () if value is None else (value,)

    def keys(self, entity: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the keys of an entity's rows."""
        for value in self.values(entity):
            yield self._row(entity, value)

    def _row(self, entity: Mapping[str, Any], value: str) -> dict[str, Any]:
        key = {self.column: value, 'id': entity['id']}
        if self._sharded:
            key['shard'] = shard_of(entity['id'])
        if self._versioned:
            key['incarnation'] = entity['incarnation']
        return key


class Indexes:
    """The index tables of one kind of entity.

    An entity is in each of them once for each of its values.
    """

    def __init__(self, *indexes: Index) -> None:
        self._indexes = indexes

    def __iter__(self) -> Iterator[Index]:
        return iter(self._indexes)

    def inserts(
        self, entity: Mapping[str, Any], ttl: int | None = None
    ) -> list[Step]:
        """Return the statements that add an entity's rows."""
        life = {} if ttl is None else {'ttl': ttl}
        return [
            (
                index.insert if ttl is None else index.insert_expiring,
                key | life,
            )
            for index, key in self._keys(entity)
        ]

    def deletes(self, entity: Mapping[str, Any]) -> list[Step]:
        """Return the statements that remove an entity's rows."""
        return [(index.delete, key) for index, key in self._keys(entity)]

    def write(
        self,
        db: Store,
        entities: Iterable[Mapping[str, Any]],
        ttl: int | None = None,
    ) -> None:
        """Add the rows of entities, before these are written.

        :raises StoreUnavailable: if it cannot be done now.  Some may be there;
            nobody minds a row without its entity.
        """
        _all_sent(
            db, [step for each in entities for step in self.inserts(each, ttl)]
        ).result()

    def list_while_created(
        self,
        db: Store,
        entity: Mapping[str, Any],
        create: Callable[[], bool],
        ttl: int | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> bool:
        """Add the rows of an entity, and create it; return whether it is made.

        If it is not made the rows are removed, unless it may be made yet.

        :param create: called once the rows are there.
        :param meanwhile: called while they are written; raises if the entity
            must not be made.
        :raises StoreUnavailable: if the rows cannot be written now.
        """
        sent = _all_sent(db, self.inserts(entity, ttl))
        keep = False
        try:
            try:
                meanwhile()
            finally:
                sent.result()
            try:
                keep = create()
            except errors.OutcomeUnknown:
                keep = True
                raise
        finally:
            if not keep:
                self.remove(db, entity)
        return keep

    def remove(self, db: Store, entity: Mapping[str, Any]) -> None:
        """Remove the rows of an entity that is not, or not there any more.

        If it cannot be done now they are left: the change itself is made.
        """
        with contextlib.suppress(errors.StoreUnavailable):
            _all_sent(db, self.deletes(entity)).result()

    def place(self, entity: Mapping[str, Any]) -> list[Any]:
        """Return what decides where an entity's rows are."""
        return [sorted(index.values(entity)) for index in self._indexes]

    def _keys(
        self, entity: Mapping[str, Any]
    ) -> Iterator[tuple[Index, dict[str, Any]]]:
        for index in self._indexes:
            for key in index.keys(entity):
                yield index, key


def _all_sent(db: Store, steps: Iterable[Step]) -> Future[None]:
    """Send writes of index rows side by side.

    Without a batch: a reader skips a row that is alone, and misses none as
    long as the entity is not there.
    """
    sent = db.run_each_async(steps)

    def wait() -> None:
        try:
            sent.result()
        except errors.OutcomeUnknown as unknown:
            raise errors.StoreUnavailable(unknown.reason) from unknown

    return Future(wait)
