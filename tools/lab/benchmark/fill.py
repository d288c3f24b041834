# SPDX-License-Identifier: Apache-2.0
"""Fill both systems in bulk, below their drivers."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent
from cassandra.query import BatchStatement, BatchType
from keystone.common import sql

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import label
from lab.benchmark.systems import Systems, driver
from lab.mariadb import MariaDB

_ROWS_A_REQUEST = 50
_REQUESTS_UNDER_WAY = 24
_REQUESTS_AT_ONCE = 400
#: A node that is flooded refuses some; the same write again does no harm.
_ATTEMPTS = 30

#: A table of Keystone's SQL drivers: its model, the columns, the rows.
SqlRows = tuple[Any, str, Iterable[Sequence[Any]]]
#: Values of the markers, by statement.
Rows = dict[Statement, list[Mapping[str, Any]]]


def portions(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield some rows at a time."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, size)):
        yield some


def create_tables(systems: Systems, *kinds: str) -> None:
    """Make the tables of Keystone's SQL drivers; what a client does."""
    # Users refer to tables of the first.
    for kind in ('federation', *kinds):
        driver('sql', kind)
    engine = sqlalchemy.create_engine(systems.place.database)
    sql.ModelBase.metadata.create_all(engine)
    engine.dispose()


def load(server: MariaDB, database: str, tables: Iterable[SqlRows]) -> None:
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

    def request(some: list[Mapping[str, Any]]) -> tuple[Any, ...]:
        batch = BatchStatement(batch_type=BatchType.UNLOGGED)
        for row in some:
            values = {k: v for k, v in row.items() if v is not None}
            batch.add(prepared, values)
        return batch, ()

    requests = map(request, portions(rows, _ROWS_A_REQUEST))
    for some in portions(requests, _REQUESTS_AT_ONCE):
        _send(systems.bare, some, _ATTEMPTS)


def _send(session: Session, requests: list[Any], attempts: int) -> None:
    answers = execute_concurrent(
        session,
        requests,
        concurrency=_REQUESTS_UNDER_WAY,
        raise_on_first_error=attempts == 1,
    )
    refused = [
        request
        for request, answer in zip(requests, answers, strict=True)
        if not answer.success
    ]
    if refused:
        _send(session, refused, attempts - 1)


def write_all(systems: Systems, rows: Rows) -> None:
    """Write the rows of several statements."""
    for statement, some in rows.items():
        write(systems, statement, some)


def write_named(
    systems: Systems,
    db: Store,
    named: Named,
    entities: Iterable[Mapping[str, Any]],
) -> None:
    """Write entities with their index rows and their claims.

    :param entities: columns and values of each.
    """
    for some in portions(map(named.entity.new, entities), 10_000):
        rows: Rows = collections.defaultdict(list)
        for each in some:
            add_named(rows, db, named, each)
        write_all(systems, rows)


def add_named(
    rows: Rows, db: Store, named: Named, new: dict[str, Any]
) -> None:
    """Add all rows of an entity."""
    entity = named.entity
    made = {
        'owner': new['id'],
        'stamp': clock.incarnation(),
        'claimed_at': clock.to_micros(clock.utcnow()),
    }
    new['stamps'] = {}
    for spec in named.specs:
        for key in spec.keys(db, new):
            rows[spec.claims.insert].append({**key, **made})
            stamp = label(spec.claims.table, key)
            new['stamps'][stamp] = str(made['stamp'])
    rows[entity.insert].append(entity.stored(new, None))
    for statement, key in entity.indexes.inserts(new):
        rows[statement].append(key)
