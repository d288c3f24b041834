# SPDX-License-Identifier: Apache-2.0
"""Filling the systems before they are measured.

SQL takes the events from a file.  For Cassandra each event goes through the
driver's own ``revoke``; only what it then asks of the store is gathered into
requests of many rows, since a million round trips would take half an hour.
"""

from __future__ import annotations

import collections
import datetime
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import cassandra.query
import sqlalchemy
from keystone.models import revoke_model
from keystone.revoke.backends import sql as sql_revoke

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.token import revoke
from lab import LabError
from lab.benchmark import events
from lab.benchmark.systems import Systems, subjects
from lab.mariadb import MariaDB

_ROWS_A_REQUEST = 50
_REQUESTS_UNDER_WAY = 24
_ATTEMPTS = 30


class _Gathering:
    """A store whose batches are sent together with others'."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[Statement, list[Any]] = {}
        self._sent: collections.deque[Any] = collections.deque()

    def batch(self, *steps: tuple[Statement, Mapping[str, Any]]) -> None:
        connection = self._store.sessions.get()
        for statement, binds in steps:
            rows = self._waiting.setdefault(statement, [])
            rows.append(self._store.bind(connection, statement, binds))
            if len(rows) == _ROWS_A_REQUEST:
                self._send(rows)

    def _send(self, rows: list[Any]) -> None:
        batch = cassandra.query.BatchStatement(
            batch_type=cassandra.query.BatchType.UNLOGGED
        )
        for row in rows:
            batch.add(row)
        rows.clear()
        if len(self._sent) == _REQUESTS_UNDER_WAY:
            self._settle()
        self._sent.append((batch, self._start(batch)))

    def _start(self, batch: cassandra.query.BatchStatement) -> Any:
        return self._store.sessions.get().session.execute_async(batch)

    def _settle(self) -> None:
        """Wait until the oldest request is acknowledged."""
        batch, answer = self._sent.popleft()
        for _ in range(_ATTEMPTS):
            try:
                answer.result()
            except errors.DRIVER_ERRORS as error:
                # The same write again does no harm, and a node that is
                # flooded needs a moment.
                failure = error
                time.sleep(1)
                answer = self._start(batch)
            else:
                return
        raise failure

    def finish(self) -> None:
        """Send what is left and wait until all is acknowledged."""
        for rows in self._waiting.values():
            if rows:
                self._send(rows)
        while self._sent:
            self._settle()


class _SettledTTL:
    """The revocation TTL, read once instead of for each event."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def ensure(self, seconds: int) -> None:
        """Do nothing: it was made sure of before the first event."""

    def ask(self) -> tuple[int, Callable[[], int]]:
        return self._seconds, lambda: self._seconds


def load_cassandra(
    systems: Systems,
    size: int,
    reference: datetime.datetime,
    first: int,
    step: int,
) -> None:
    """Write every ``step``-th of ``size`` events; what a client does."""
    systems.revoke.ttl.ensure(revocation_ttl.needed(systems.revoke.conf))
    loader = revoke.Revoke()
    gathering = _Gathering(systems.revoke.db)
    loader.db = gathering
    loader.ttl = _SettledTTL(systems.revoke.ttl.current())
    for event in events.events(size, reference, first, step):
        loader.revoke(event)
    gathering.finish()


def create_sql(systems: Systems) -> None:
    """Make Keystone's table of revocation events, with its indexes."""
    engine = sqlalchemy.create_engine(systems.place.database)
    sql_revoke.RevocationEvent.__table__.create(engine)
    engine.dispose()


def load_sql(
    server: MariaDB, database: str, size: int, reference: datetime.datetime
) -> None:
    """Fill ``revocation_event`` with the same events."""
    columns = tuple(revoke_model.REVOKE_KEYS)
    path = os.path.join(server.directory, f'{database}.tsv')
    with open(path, 'w') as file:
        for event in events.events(size, reference):
            values = (getattr(event, name) for name in columns)
            file.write(
                '\t'.join(r'\N' if v is None else str(v) for v in values)
                + '\n'
            )
    count = server.load(path, f'{database}.revocation_event', columns)
    os.unlink(path)
    if count != size:
        raise LabError(f'MariaDB took {count} of {size} events')


def verify(
    systems: Systems, system: str, size: int, reference: datetime.datetime
) -> None:
    """Check that a token is found revoked that one of the events is for.

    :raises LabError: if not; then the figures would be of something else.
    """
    values = events.token_values(1800, reference)
    values['audit_id'] = events.revoked_audit_id(size)
    found = systems.revoke_driver(system).list_events(token=values)
    if not revoke_model.is_revoked(found, values):
        raise LabError(f'{system}: a revoked token counts as live')


def subject_rows(systems: Systems, reference: datetime.datetime) -> int:
    """Return the rows in the subjects of a token that is checked."""
    keys = subjects(events.token_values(1800, reference))
    statement = systems.bare.prepare(revoke.CHECK.text(systems.place.name))
    return len(systems.bare.execute(statement, (keys,)).all())
