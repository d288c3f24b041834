# SPDX-License-Identifier: Apache-2.0
"""The way from a statement to Cassandra, and of its errors to a driver.

It alone knows profiles, levels, time-outs, logging (CQL text, never values)
and the translation of errors.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Self

import cassandra.cluster
import cassandra.query
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token.db import (
    clock,
    consistency,
    deadline,
    errors,
    keys,
    outage,
    remembered,
    session,
    watch,
)
from keystone_cassandra_token.db.agreement import Turn
from keystone_cassandra_token.db.connection import (
    SPECULATIVE,
    Connection,
    level_value,
    speculates,
)
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Interceptor, Request

LOG = log.getLogger(__name__)

UNSET = cassandra.query.UNSET_VALUE

#: A statement with the values of its markers.
Step = tuple[Statement, Mapping[str, Any]]


class Sender:
    """Sends statements on the process's session.

    :param verify: as for :class:`~session.Sessions`.
    :ivar interceptors: for tests and tools: see each request, the last one
        first.
    """

    interceptors: tuple[Interceptor, ...] = ()
    #: Set where the threads that use it are helpers of one request.
    _turns: contextlib.AbstractContextManager[None] | None = None

    def __init__(
        self, conf: cfg.ConfigOpts, verify: session.Verify | None = None
    ) -> None:
        self.conf = conf
        self.sessions = session.Sessions(conf, verify)

    def for_helpers(self) -> Self:
        """Return the same one for threads that help with one request.

        They are no two requests at once, of which the log would warn.
        """
        store = copy.copy(self)
        store._turns = contextlib.nullcontext()
        return store

    def close(self) -> None:
        """Close the session; the next use opens a new one."""
        self.sessions.close()

    def _start(
        self,
        statement: Statement,
        binds: Mapping[str, Any],
        later: bool = False,
        always: bool = False,
    ) -> Any:
        """Send a statement; the one way out for all of them but batches.

        :param always: also where another one has just failed.
        :returns: what has its ``result()``.

        A read or deletion of a key that no row can have is not sent: to
        Cassandra that is an error.  Nor is what the client's request has read
        already.
        """
        connection = self.sessions.get()
        try:
            if statement.verb == 'SELECT':
                binds = keys.possible(binds)
            bound = self.bind(connection, statement, binds)
        except errors.ValueRefused:
            if statement.verb in ('SELECT', 'DELETE'):
                return keys.NOTHING
            raise
        send = functools.partial(
            self._request, connection, (statement,), bound, later, always
        )
        reads = remembered.current()
        if reads is None or statement.operation not in consistency.REMEMBERED:
            return send()
        return reads.answer(read_key(connection, statement, bound), send)

    def _start_batch(
        self,
        steps: tuple[Step, ...],
        level: consistency.Level | None = None,
        wait: float | None = None,
    ) -> Request:
        """Send a batch; of one statement Cassandra makes none.

        :param level: another one than that of their class.
        :param wait: as for :class:`Request`.
        """
        connection = self.sessions.get()
        level = level or connection.policy.level(steps[0][0].operation)
        batch = cassandra.query.BatchStatement(
            # A conditional one is of one partition, and all or none.
            batch_type=cassandra.query.BatchType.UNLOGGED,
            consistency_level=level_value(level.consistency),
            serial_consistency_level=level.serial
            and level_value(level.serial),
        )
        batch.is_idempotent = all(step.idempotent for step, _ in steps)
        for statement, binds in steps:
            try:
                batch.add(self.bind(connection, statement, binds))
            except errors.ValueRefused:
                # No row has such a key: there is nothing to delete.
                if statement.verb != 'DELETE' or (
                    statement.operation in consistency.CONDITIONAL
                ):
                    raise
        statements = tuple(step for step, _ in steps)
        # What is not waited for now is counted when the answer comes.
        later = wait is not None
        return self._request(connection, statements, batch, later, wait=wait)

    def _request(
        self,
        connection: Connection,
        statements: tuple[Statement, ...],
        query: cassandra.query.Statement,
        later: bool = False,
        always: bool = False,
        wait: float | None = None,
    ) -> Request:
        operation = statements[0].operation
        turn = self._turn(connection, operation)
        if turn is not None and not always:
            turn.check()
        if operation not in consistency.LEAVES_REMEMBERED:
            remembered.forget()
        profile = (
            SPECULATIVE
            if all(speculates(connection, each) for each in statements)
            else cassandra.cluster.EXEC_PROFILE_DEFAULT
        )
        return Request(
            connection,
            statements,
            query,
            profile,
            self.interceptors,
            later,
            wait,
            turn,
        )

    def _turn(
        self, connection: Connection, operation: Operation
    ) -> Turn | None:
        """Return how a client's request waits for other regions.

        None if it needs none.  Commands, and threads of this process, have
        as much time as they like.
        """
        if (
            operation not in consistency.WIDE
            or len(connection.replication) < 2
            or not connection.policy.is_wide(operation)
        ):
            return None
        silence = deadline.silence()
        if silence is None:
            return None
        wait = self.conf.cassandra.claim_wait
        return Turn(silence, self.sessions.cut_off, operation, wait)

    def bind(
        self,
        connection: Connection,
        statement: Statement,
        binds: Mapping[str, Any],
    ) -> cassandra.query.BoundStatement:
        """Return a statement with its values, ready to be sent.

        :raises ValueRefused: if Cassandra cannot take one of them.
        """
        statement.check(binds.keys())
        if 'ttl' in binds:
            clock.check_ttl(binds['ttl'])
        values = binds
        if statement.verb == 'INSERT':
            # A null would be stored as a tombstone in each new row; an
            # UPDATE means it.
            values = {
                name: UNSET if value is None else value
                for name, value in binds.items()
            }
        return keys.bind(self._prepared(connection, statement), values)

    def _prepared(self, connection: Connection, statement: Statement) -> Any:
        try:
            return connection.prepare(statement)
        except errors.DRIVER_ERRORS as error:
            if errors.refusal(error, statement.cql) is None:
                raise
            # It has no values yet that could be what is wrong.
            _log_refused(statement, str(error))
            raise errors.StatementRefused() from error

    @contextlib.contextmanager
    def _translated(
        self, statement: Statement, note: bool = True
    ) -> Iterator[None]:
        """Translate the driver's errors.

        :param note: whether conclusions are drawn for what comes next.
        """
        kind = statement.operation.value
        try:
            with self._turns or self.sessions.turns:
                yield
        except errors.StoreUnavailable:
            watch.not_sent(statement)
            raise
        except errors.DRIVER_ERRORS as error:
            refused = errors.refusal(error, statement.cql)
            if refused is not None:
                if isinstance(refused, errors.StatementRefused):
                    _log_refused(statement, type(error).__name__)
                # Without the driver's exception: its text can quote a value.
                raise refused from None
            remembered.forget()
            failure = errors.translate(error, statement.cql)
            LOG.debug('%s failed: %s', statement.cql, failure.reason)
            watch.failed(statement, failure)
            if note:
                self._note(statement, error, failure)
                self._outage.began(kind, failure.reason)
            raise failure from error
        else:
            if note:
                self._outage.ended(kind)

    def _note(
        self,
        statement: Statement,
        error: BaseException,
        failure: errors.StoreUnavailable,
    ) -> None:
        """Draw the conclusions for what comes next."""
        connection = self.sessions.current
        if connection is None:
            return
        turn = self._turn(connection, statement.operation)
        lacking = errors.lacks_replicas(error)
        if isinstance(error, cassandra.OperationTimedOut):
            lacking = turn is not None and turn.is_over()
            # Else it may have waited for another datacenter.
            if statement.operation is not Operation.ESCALATED_READ:
                connection.balancing.is_slow(error.last_host)
        if turn is not None and lacking:
            connection.balancing.excuse(turn.gives_up(failure.reason))
        self.sessions.failed(connection)

    @property
    def _outage(self) -> outage.Outage:
        return self.sessions.outage


def read_key(
    connection: Connection,
    statement: Statement,
    bound: cassandra.query.BoundStatement,
) -> tuple[Any, ...]:
    """Return what tells a read from others."""
    return connection.session, statement, *bound.values


def _log_refused(statement: Statement, said: str) -> None:
    LOG.error('Cassandra refused a statement: %s: %s', statement.cql, said)
