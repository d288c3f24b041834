# SPDX-License-Identifier: Apache-2.0
"""Fill both systems in bulk, below their drivers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cassandra.concurrent
import sqlalchemy
from keystone.common import sql

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.named import Named
from lab.benchmark.systems import Systems

_LOADERS = 100  # requests under way


def portions(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield some rows at a time."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, size)):
        yield some


class Database:
    """The tables of Keystone's SQL drivers.

    :param models: whose tables to make.
    """

    def __init__(self, found: Systems, *models: Any) -> None:
        self._engine = sqlalchemy.create_engine(found.place.database)
        sql.ModelBase.metadata.create_all(
            self._engine, tables=[model.__table__ for model in models]
        )

    def insert(self, model: Any, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows of a model."""
        statement = sqlalchemy.insert(model.__table__)
        with self._engine.begin() as connection:
            for some in portions(rows, 5000):
                connection.execute(statement, some)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def write(
    found: Systems, statement: Statement, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows to Cassandra, plainly also where the drivers do it by LWT."""
    plain = Statement(
        statement.cql.replace(' IF NOT EXISTS', ''), Operation.WRITE
    )
    prepared = found.bare.prepare(plain.text(found.place.name))
    done = cassandra.concurrent.execute_concurrent_with_args(
        found.bare,
        prepared,
        ({k: v for k, v in row.items() if v is not None} for row in rows),
        concurrency=_LOADERS,
        results_generator=True,
    )
    for _ in done:
        pass


def write_named(
    found: Systems,
    db: Store,
    named: Named,
    entities: Iterable[dict[str, Any]],
) -> None:
    """Write entities with their index rows and their claims."""
    entity = named.entity
    for some in portions(entities, 10_000):
        rows = [entity.row.dump(each) for each in some]
        write(
            found,
            entity.insert,
            ({k: row[k] for k in entity.insert.binds} for row in rows),
        )
        by_statement: dict[Statement, list[Mapping[str, Any]]] = {}
        for each in some:
            for statement, key in entity.indexes.inserts(each):
                by_statement.setdefault(statement, []).append(key)
        for statement, keys in by_statement.items():
            write(found, statement, keys)
        now = clock.to_micros(clock.utcnow())
        write(
            found,
            named.claims.insert,
            (
                {**key, 'owner': each['id'], 'claimed_at': now}
                for each in some
                for key in named.keys(db, each)
            ),
        )
