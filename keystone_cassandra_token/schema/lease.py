# SPDX-License-Identifier: Apache-2.0
"""The lease that excludes a second migrator.

One row of ``schema_lock`` with a TTL: who wrote it alone may change the
schema, and renews it before each statement.  A migrator that died holds it
for at most :data:`SECONDS` more.  It is agreed on at SERIAL whatever the
options say: two migrators in two datacenters must not meet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import secrets
import socket
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.cql import (
    Statement,
    schema_change,
    schema_read,
)
from keystone_cassandra_token.schema.version import execute

if TYPE_CHECKING:
    from keystone_cassandra_token.db.connection import Connection

#: Life of a lease that nobody renews.
SECONDS = 60

_NAME = 'migration'

ACQUIRE = schema_change(
    'INSERT INTO schema_lock (name, holder) VALUES (:name, :holder)'
    f' IF NOT EXISTS USING TTL {SECONDS}'
)
RENEW = schema_change(
    f'UPDATE schema_lock USING TTL {SECONDS} SET holder = :holder'
    ' WHERE name = :name IF holder = :holder'
)
RELEASE = schema_change(
    'DELETE FROM schema_lock WHERE name = :name IF holder = :holder'
)
GET = schema_read(
    'SELECT holder, TTL(holder) AS seconds FROM schema_lock WHERE name = :name'
)


class LeaseTaken(Exception):
    """Another migrator is at work; the message names it."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has the lease.

    :ivar name: ``host:pid``.
    :ivar seconds: until it ends, unless it is renewed.
    """

    name: str
    seconds: int


class Lease:
    """The lease, held while the context lasts.

    :raises LeaseTaken: on entry, if another migrator has it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # A pid alone is not unique: in containers it is often 1.
        self.holder = (
            f'{socket.gethostname()}:{os.getpid()}#{secrets.token_hex(4)}'
        )

    def __enter__(self) -> Lease:
        if not self._change(ACQUIRE):
            raise LeaseTaken(
                f'Another migrator is at work: {self._other()} Retry'
                ' when it is done.'
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # It ends by itself; what went wrong before matters more.
        with contextlib.suppress(errors.StoreUnavailable):
            execute(self._connection, RELEASE, name=_NAME, holder=self.holder)

    def renew(self) -> None:
        """Prolong the lease; to be called before each change.

        :raises LeaseTaken: if it was lost: this migrator has to stop.
        """
        if not self._change(RENEW):
            raise LeaseTaken(
                'This migrator took too long and lost its lease'
                f' ({self._other()}) It stops here; run it again, what is'
                ' done is skipped.'
            )

    def _change(self, statement: Statement) -> bool:
        binds: dict[str, Any] = {'name': _NAME, 'holder': self.holder}
        try:
            row = execute(self._connection, statement, **binds)[0]
        except errors.OutcomeUnknown:
            rows = _look(self._connection)
            return bool(rows) and rows[0]['holder'] == self.holder
        return bool(row['[applied]'])

    def _other(self) -> str:
        found = holder(self._connection)
        if found is None:
            return 'nobody has it now.'
        return (
            f'{found.name} holds the lease for {found.seconds} s more,'
            ' unless it renews it.'
        )


def holder(connection: Connection) -> Holder | None:
    """Return who has the lease now, or None."""
    for row in _look(connection):
        if row['holder']:
            return Holder(row['holder'].split('#')[0], row['seconds'] or 0)
    return None


def _look(connection: Connection) -> list[dict[str, Any]]:
    """Read the lease.

    A serial read takes part in what it meets: beside other migrators it can
    end without an answer, and it is right to try again.
    """
    for _ in range(2):
        try:
            return execute(connection, GET, name=_NAME)
        except errors.StoreUnavailable:
            time.sleep(random.uniform(0.2, 1.0))
    return execute(connection, GET, name=_NAME)
