# SPDX-License-Identifier: Apache-2.0
"""Fill both systems in bulk, below their drivers."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cassandra.concurrent
import cassandra.query
import sqlalchemy
from keystone.common import sql

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import label
from lab.benchmark.systems import Systems
from lab.mariadb import MariaDB

_ROWS_A_REQUEST = 50
_REQUESTS_UNDER_WAY = 24
_REQUESTS_AT_ONCE = 400
#: A node that is flooded refuses some; the same write again does no harm.
_ATTEMPTS = 30

#: A table of Keystone's SQL drivers: its model, the columns, the rows.
Rows = tuple[Any, str, Iterable[Sequence[Any]]]


def portions(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield some rows at a time."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, size)):
        yield some


def create_tables(systems: Systems, *models: Any) -> None:
    """Make the tables of Keystone's SQL drivers; what a client does."""
    engine = sqlalchemy.create_engine(systems.place.database)
    tables = [model.__table__ for model in models]
    sql.ModelBase.metadata.create_all(engine, tables=tables)
    engine.dispose()


def load(server: MariaDB, database: str, tables: Iterable[Rows]) -> None:
    """Fill tables of Keystone's SQL drivers."""
    for model, columns, rows in tables:
        table = f'`{database}`.`{model.__tablename__}`'
        server.load(table, columns.split(), rows)


def write(
    systems: Systems, statement: Statement, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows to Cassandra, plainly also where the drivers do it by LWT.

    Many rows go in one request: a million round trips would take half an
    hour.
    """
    plain = Statement(re.sub(' IF .*', '', statement.cql), Operation.WRITE)
    prepared = systems.bare.prepare(plain.text(systems.place.name))

    def request(some: list[Mapping[str, Any]]) -> Any:
        batch = cassandra.query.BatchStatement(
            batch_type=cassandra.query.BatchType.UNLOGGED
        )
        for row in some:
            values = {k: v for k, v in row.items() if v is not None}
            batch.add(prepared, values)
        return batch, ()

    batches = map(request, portions(rows, _ROWS_A_REQUEST))
    for requests in portions(batches, _REQUESTS_AT_ONCE):
        _send(systems, requests)


def _send(systems: Systems, requests: list[Any]) -> None:
    for last in (False,) * (_ATTEMPTS - 1) + (True,):
        answers = cassandra.concurrent.execute_concurrent(
            systems.bare,
            requests,
            concurrency=_REQUESTS_UNDER_WAY,
            raise_on_first_error=last,
        )
        requests = [
            request
            for request, (done, _) in zip(requests, answers, strict=True)
            if not done
        ]
        if not requests:
            return


def write_named(
    systems: Systems,
    db: Store,
    named: Named,
    entities: Iterable[dict[str, Any]],
) -> None:
    """Write entities with their index rows and their claims."""
    entity = named.entity
    for some in portions(entities, 10_000):
        rows: dict[Statement, list[Mapping[str, Any]]] = (
            collections.defaultdict(list)
        )
        for each in some:
            now, stamp = clock.to_micros(clock.utcnow()), clock.incarnation()
            each['stamps'] = {}
            for spec in named.specs:
                for key in spec.keys(db, each):
                    each['stamps'][label(spec.claims.table, key)] = str(stamp)
                    claim = {
                        'owner': each['id'],
                        'stamp': stamp,
                        'claimed_at': now,
                    }
                    rows[spec.claims.insert].append({**key, **claim})
            rows[entity.insert].append(entity.stored(each, None))
            for statement, key in entity.indexes.inserts(each):
                rows[statement].append(key)
        for statement, found in rows.items():
            write(systems, statement, found)
