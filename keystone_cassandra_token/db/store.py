# SPDX-License-Identifier: Apache-2.0
"""The store: few verbs over statements, and the only caller of ``execute``.

It alone knows profiles, levels, time-outs, logging (CQL text, never values)
and the translation of errors, so that a driver is statements and thin
methods.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cassandra.cluster
import cassandra.query
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token.db import (
    clock,
    consistency,
    errors,
    keys,
    outage,
    session,
    watch,
)
from keystone_cassandra_token.db.connection import (
    SPECULATIVE,
    Connection,
    level_value,
    speculates,
)
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.outcome import Applied, Outcome, settled
from keystone_cassandra_token.db.request import Future, Interceptor, Request
from keystone_cassandra_token.db.rows import Row

LOG = log.getLogger(__name__)

UNSET = cassandra.query.UNSET_VALUE

#: In an UPDATE: leave this column as it is.
KEEP = UNSET


class Store:
    """Runs statements on the process's session.

    All verbs take the markers' values by name and raise
    :class:`~errors.StoreUnavailable` where Cassandra cannot answer.

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

    def one(
        self, statement: Statement, row: Row, **binds: Any
    ) -> dict[str, Any] | None:
        """Return the row that a read finds, or None."""
        found = self.rows(statement, row, **binds)
        return found[0] if found else None

    def one_async(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Future[dict[str, Any] | None]:
        """Send a read; return the future of its row.

        The read is in progress while the caller does something else.
        """
        return self.rows_async(statement, row, **binds).then(
            lambda found: found[0] if found else None
        )

    def rows_async(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Future[list[dict[str, Any]]]:
        """Send a read; return the future of its rows."""
        with self._translated(statement):
            pending = self._start(statement, binds, later=True)

        def wait() -> list[dict[str, Any]]:
            with self._translated(statement):
                return [row.load(stored) for stored in pending.result()]

        return Future(wait)

    def rows(
        self, statement: Statement, row: Row, **binds: Any
    ) -> list[dict[str, Any]]:
        """Return all rows that a read finds, fetched page by page."""
        return list(self.iterate(statement, row, **binds))

    def iterate(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows that a read finds, fetching pages as needed."""
        with self._translated(statement):
            for stored in self._start(statement, binds).result():
                yield row.load(stored)

    def many(
        self,
        statement: Statement,
        row: Row,
        keys: Iterable[Mapping[str, Any]],
    ) -> list[list[dict[str, Any]]]:
        """Return the rows that a read finds for each key, in their order.

        At most ``[cassandra] concurrency`` reads are under way at once.
        """
        found: list[list[dict[str, Any]]] = []
        with self._translated(statement):
            remaining = iter(keys)
            window = collections.deque(
                self._start(statement, key, later=True)
                for key in itertools.islice(
                    remaining, self.conf.cassandra.concurrency
                )
            )
            while window:
                found.append(
                    [row.load(stored) for stored in window.popleft().result()]
                )
                for key in itertools.islice(remaining, 1):
                    window.append(self._start(statement, key, later=True))
        return found

    def run(self, statement: Statement, **binds: Any) -> None:
        """Run a plain write."""
        _check_plain(statement)
        with self._translated(statement):
            self._start(statement, binds).result()

    def cas(self, statement: Statement, **binds: Any) -> Outcome:
        """Run a conditional write.

        :raises OutcomeUnknown: if it may or may not have been applied.
        """
        _check_conditional(statement)
        with self._translated(statement):
            row = self._start(statement, binds).result().one()
        return _outcome(statement, row)

    def cas_batch(
        self, *steps: tuple[Statement, Mapping[str, Any]]
    ) -> Outcome:
        """Run conditional writes of one partition: all or none.

        :raises OutcomeUnknown: as :meth:`cas`.
        """
        statement = _of_one_class(steps)
        _check_conditional(statement)
        with self._translated(statement):
            row = self._start_batch(steps).result().one()
        return _outcome(statement, row)

    def cas_settled(
        self,
        statement: Statement,
        settle: Statement,
        applied: Applied,
        **binds: Any,
    ) -> Outcome:
        """Run a conditional write; where its reply is lost, look.

        The one place that knows how an unknown outcome is found out.  What a
        node that hangs was sent is sent to another one, if it was not done.

        :param settle: a serial read of the row; its markers are among those
            of the write.
        :param applied: is given the row as it is stored, without codecs.
        :raises OutcomeUnknown: if that cannot tell either.
        """
        return self._cas_settled(
            lambda: self.cas(statement, **binds),
            settle,
            applied,
            [binds],
            statement.resent,
        )

    def cas_batch_settled(
        self,
        *steps: tuple[Statement, Mapping[str, Any]],
        settle: Statement,
        applied: Applied,
        rows: Sequence[Mapping[str, Any]],
    ) -> Outcome:
        """Run conditional writes of one partition, as :meth:`cas_settled`.

        :param rows: where to look, one after the other until one tells.
        """
        return self._cas_settled(
            lambda: self.cas_batch(*steps),
            settle,
            applied,
            rows,
            all(step.resent for step, _ in steps),
        )

    def _cas_settled(
        self,
        write: Callable[[], Outcome],
        settle: Statement,
        applied: Applied,
        rows: Sequence[Mapping[str, Any]],
        resent: bool,
    ) -> Outcome:
        def found() -> Outcome | None:
            said = (self._settled(settle, binds, applied) for binds in rows)
            return next((each for each in said if each is not None), None)

        return settled(write, found, resent)

    def _settled(
        self, settle: Statement, binds: Mapping[str, Any], applied: Applied
    ) -> Outcome | None:
        key = {name: binds[name] for name in settle.binds}
        with self._translated(settle):
            row = next(
                iter(self._start(settle, key, always=True).result()), None
            )
        said = applied(row)
        if said is None:
            return None
        return Outcome(said, {} if said or row is None else row)

    def batch(self, *steps: tuple[Statement, Mapping[str, Any]]) -> None:
        """Run plain writes of one class as a logged batch: all or none.

        :raises DatacenterUnavailable: in the strict mode of revocations, if
            the batch is durable here and not yet in another datacenter.
        """
        statement = _of_one_class(steps)
        _check_plain(statement)
        try:
            with self._translated(statement, note=False):
                self._start_batch(steps).result()
        except errors.StoreUnavailable as failure:
            self._keep_here(steps, failure)
        self._outage.ended(statement.operation.value)

    def _keep_here(
        self,
        steps: tuple[tuple[Statement, Mapping[str, Any]], ...],
        failure: errors.StoreUnavailable,
    ) -> None:
        """Write at the fallback level, where the class has one; then 503."""
        operation = steps[0][0].operation
        datacenter = errors.absent_datacenter(failure.__cause__)
        connection = self.sessions.get()
        level = connection.policy.fallback(operation)
        if datacenter is None or level is None:
            self._outage.began(operation.value, failure.reason)
            raise failure
        with self._translated(steps[0][0]):
            self._start_batch(steps, level).result()
        # A time-out does not say which it was.
        others = sorted(connection.replication.keys() - {connection.local_dc})
        reason = (
            'The change is durable in this region (datacenter), but datacenter'
            f' {datacenter or " or ".join(others)} could not be told.'
        )
        self._outage.began(operation.value, reason)
        raise errors.DatacenterUnavailable(reason) from failure

    def for_helpers(self) -> Store:
        """Return the same store for threads that help with one request.

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
    ) -> Request | keys.Nothing:
        """Send a statement; the one way out for all of them but batches.

        :param always: also where another one has just failed.

        A read or deletion of a key that no row can have is not sent: to
        Cassandra that is an error.
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
        return self._request(connection, (statement,), bound, later, always)

    def _start_batch(
        self,
        steps: tuple[tuple[Statement, Mapping[str, Any]], ...],
        level: consistency.Level | None = None,
    ) -> Request:
        connection = self.sessions.get()
        level = level or connection.policy.level(steps[0][0].operation)
        batch = cassandra.query.BatchStatement(
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
        return self._request(connection, statements, batch)

    def _request(
        self,
        connection: Connection,
        statements: tuple[Statement, ...],
        query: cassandra.query.Statement,
        later: bool = False,
        always: bool = False,
    ) -> Request:
        if statements[0].operation in _WIDE and not always:
            self.sessions.check_wide()
        profile = (
            SPECULATIVE
            if all(speculates(connection, each) for each in statements)
            else cassandra.cluster.EXEC_PROFILE_DEFAULT
        )
        return Request(
            connection, statements, query, profile, self.interceptors, later
        )

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
            failure = errors.translate(error, statement.cql)
            LOG.debug('%s failed: %s', statement.cql, failure.reason)
            watch.failed(statement, failure)
            self._note(statement, error, failure)
            if note:
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
        if isinstance(error, cassandra.OperationTimedOut):
            connection.balancing.is_slow(error.last_host)
        if (
            statement.operation in _WIDE
            and len(connection.replication) > 1
            and errors.lacks_replicas(error)
        ):
            self.sessions.wide_failed(failure.reason)
        self.sessions.failed(connection)

    @property
    def _outage(self) -> outage.Outage:
        return self.sessions.outage


#: What needs all datacenters, and takes its whole time while one is away.
_WIDE = frozenset(
    {
        consistency.Operation.LWT_GLOBAL,
        consistency.Operation.LWT_GLOBAL_READ,
        consistency.Operation.ESCALATED_READ,
    }
)


def _log_refused(statement: Statement, said: str) -> None:
    LOG.error('Cassandra refused a statement: %s: %s', statement.cql, said)


def _outcome(statement: Statement, row: dict[str, Any]) -> Outcome:
    applied = row.pop('[applied]')
    watch.written(statement, applied)
    return Outcome(applied, row)


def _of_one_class(
    steps: tuple[tuple[Statement, Mapping[str, Any]], ...],
) -> Statement:
    """Return the first statement of a batch, which stands for all."""
    if len({step.operation for step, _ in steps}) != 1:
        raise TypeError('the statements of a batch are of one class')
    return steps[0][0]


def _check_conditional(statement: Statement) -> None:
    if statement.operation not in consistency.CONDITIONAL:
        raise TypeError(f'not conditional: {statement}')


def _check_plain(statement: Statement) -> None:
    # Otherwise the result of its condition would be lost.
    if statement.operation in consistency.CONDITIONAL:
        raise TypeError(f'conditional, for cas() only: {statement}')
