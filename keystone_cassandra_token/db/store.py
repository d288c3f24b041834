# SPDX-License-Identifier: Apache-2.0
"""The store: few verbs over statements, and the only caller of ``execute``.

It alone knows profiles, levels, time-outs, logging (CQL text, never values)
and the translation of errors, so that a driver is statements and thin
methods.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import cassandra.cluster
import cassandra.query
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token.db import (
    clock,
    consistency,
    errors,
    outage,
    session,
)
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.rows import Row

LOG = log.getLogger(__name__)

T = TypeVar('T')
U = TypeVar('U')

UNSET = cassandra.query.UNSET_VALUE

#: In an UPDATE: leave this column as it is.
KEEP = UNSET

#: Sends a request and returns the driver's future.
Send = Callable[[], Any]
#: Stands between a store and Cassandra: is given the statements of a request
#: and how to send it, and returns the future, or one like it.
Interceptor = Callable[[tuple[Statement, ...], Send], Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a conditional write; it must be used.

    :ivar applied: whether the condition held.
    :ivar row: otherwise the values that made it fail, empty if there is no
        such row.
    """

    applied: bool
    row: Mapping[str, Any]

    def __bool__(self) -> bool:
        return self.applied


#: Tells from a row, or None where there is none, whether a conditional write
#: was applied; None if nobody can tell.
Applied = Callable[[Mapping[str, Any] | None], bool | None]


def created(*incarnations: object) -> Applied:
    """Return what tells whether rows were created with these incarnations."""
    return lambda row: (
        None if row is None else row['incarnation'] in incarnations
    )


def deleted(incarnation: object) -> Applied:
    """Return what tells whether a row of this incarnation was deleted.

    For rows that are created and deleted, and never changed.
    """
    return lambda row: (
        None if row and row['incarnation'] == incarnation else True
    )


class Future(Generic[T]):
    """The answer to a statement that was sent."""

    def __init__(self, wait: Callable[[], T]) -> None:
        self._wait = wait

    def result(self) -> T:
        """Wait for the answer; raise what the statement ended with."""
        return self._wait()

    def then(self, convert: Callable[[T], U]) -> Future[U]:
        """Return the future of what a function makes of the answer."""
        return Future(lambda: convert(self._wait()))


class Store:
    """Runs statements on the process's session.

    All verbs take the markers' values by name and raise
    :class:`~errors.StoreUnavailable` where Cassandra cannot answer.

    :param verify: as for :class:`~session.Sessions`.
    :ivar interceptors: for tests and tools: see each request, the last one
        first.
    """

    interceptors: tuple[Interceptor, ...] = ()

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
            pending = self._start(statement, binds)

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
                self._start(statement, key)
                for key in itertools.islice(
                    remaining, self.conf.cassandra.concurrency
                )
            )
            while window:
                found.append(
                    [row.load(stored) for stored in window.popleft().result()]
                )
                for key in itertools.islice(remaining, 1):
                    window.append(self._start(statement, key))
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
        if statement.operation not in consistency.CONDITIONAL:
            raise TypeError(f'not conditional: {statement}')
        with self._translated(statement):
            row = self._start(statement, binds).result().one()
        return Outcome(row.pop('[applied]'), row)

    def cas_batch(
        self, *steps: tuple[Statement, Mapping[str, Any]]
    ) -> Outcome:
        """Run conditional writes of one partition: all or none.

        :raises OutcomeUnknown: as :meth:`cas`.
        """
        statement = _of_one_class(steps)
        if statement.operation not in consistency.CONDITIONAL:
            raise TypeError(f'not conditional: {statement}')
        with self._translated(statement):
            row = self._start_batch(steps).result().one()
        return Outcome(row.pop('[applied]'), row)

    def cas_settled(
        self,
        statement: Statement,
        settle: Statement,
        applied: Applied,
        **binds: Any,
    ) -> Outcome:
        """Run a conditional write; where its reply is lost, look.

        The one place that knows how an unknown outcome is found out.

        :param settle: a serial read of the row; its markers are among those
            of the write.
        :param applied: is given the row as it is stored, without codecs.
        :raises OutcomeUnknown: if that cannot tell either.
        """
        try:
            return self.cas(statement, **binds)
        except errors.OutcomeUnknown:
            outcome = self._settled(settle, binds, applied)
            if outcome is None:
                raise
            return outcome

    def cas_batch_settled(
        self,
        *steps: tuple[Statement, Mapping[str, Any]],
        settle: Statement,
        applied: Applied,
        rows: Iterable[Mapping[str, Any]],
    ) -> Outcome:
        """Run conditional writes of one partition, as :meth:`cas_settled`.

        :param rows: where to look, one after the other until one tells.
        """
        try:
            return self.cas_batch(*steps)
        except errors.OutcomeUnknown:
            for binds in rows:
                outcome = self._settled(settle, binds, applied)
                if outcome is not None:
                    return outcome
            raise

    def _settled(
        self, settle: Statement, binds: Mapping[str, Any], applied: Applied
    ) -> Outcome | None:
        key = {name: binds[name] for name in settle.binds}
        with self._translated(settle):
            row = next(iter(self._start(settle, key).result()), None)
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

    def close(self) -> None:
        """Close the session; the next use opens a new one."""
        self.sessions.close()

    def _start(
        self, statement: Statement, binds: Mapping[str, Any]
    ) -> cassandra.cluster.ResponseFuture | _Nothing:
        """Send a statement; the one way out for all of them but batches.

        A read of a key that no row can have is not sent: to Cassandra that
        is an error.
        """
        connection = self.sessions.get()
        bound = self.bind(connection, statement, binds)
        if statement.verb == 'SELECT' and not _can_be(bound):
            return _NOTHING
        profile = (
            session.SPECULATIVE
            if session.speculates(connection, statement)
            else cassandra.cluster.EXEC_PROFILE_DEFAULT
        )
        send = functools.partial(
            connection.session.execute_async, bound, execution_profile=profile
        )
        if self.interceptors:
            return self._intercepted((statement,), send)
        return send()

    def _start_batch(
        self,
        steps: tuple[tuple[Statement, Mapping[str, Any]], ...],
        level: consistency.Level | None = None,
    ) -> cassandra.cluster.ResponseFuture:
        connection = self.sessions.get()
        level = level or connection.policy.level(steps[0][0].operation)
        batch = cassandra.query.BatchStatement(
            consistency_level=session.level_value(level.consistency),
            serial_consistency_level=level.serial
            and session.level_value(level.serial),
        )
        batch.is_idempotent = all(step.idempotent for step, _ in steps)
        for statement, binds in steps:
            batch.add(self.bind(connection, statement, binds))
        send = functools.partial(connection.session.execute_async, batch)
        if self.interceptors:
            return self._intercepted(tuple(step for step, _ in steps), send)
        return send()

    def _intercepted(
        self, statements: tuple[Statement, ...], send: Send
    ) -> Any:
        for interceptor in self.interceptors:
            send = functools.partial(interceptor, statements, send)
        return send()

    def bind(
        self,
        connection: session.Connection,
        statement: Statement,
        binds: Mapping[str, Any],
    ) -> cassandra.query.BoundStatement:
        """Return a statement with its values, ready to be sent."""
        statement.check(binds.keys())
        if 'ttl' in binds:
            _check_ttl(binds['ttl'])
        values = binds
        if statement.verb == 'INSERT':
            # A null would be stored as a tombstone in each new row; an
            # UPDATE means it.
            values = {
                name: UNSET if value is None else value
                for name, value in binds.items()
            }
        return connection.prepare(statement).bind(values)

    @contextlib.contextmanager
    def _translated(
        self, statement: Statement, note: bool = True
    ) -> Iterator[None]:
        kind = statement.operation.value
        try:
            with self.sessions.turns:
                yield
        except errors.DRIVER_ERRORS as error:
            failure = errors.translate(error, statement.cql)
            LOG.debug('%s failed: %s', statement.cql, failure.reason)
            if note:
                self._outage.began(kind, failure.reason)
            raise failure from error
        else:
            if note:
                self._outage.ended(kind)

    @property
    def _outage(self) -> outage.Outage:
        return self.sessions.outage


class _Nothing:
    """The answer to a read of a key that no row can have."""

    def result(self) -> Any:
        return ()


_NOTHING = _Nothing()

#: Bytes of the longest partition key.
_LONGEST_KEY = 65_535


def _can_be(bound: cassandra.query.BoundStatement) -> bool:
    """Return whether Cassandra takes the partition key of a read."""
    try:
        key = bound.routing_key
    except struct.error:  # a part of it is too long
        return False
    return key is None or 0 < len(key) <= _LONGEST_KEY


def _of_one_class(
    steps: tuple[tuple[Statement, Mapping[str, Any]], ...],
) -> Statement:
    """Return the first statement of a batch, which stands for all."""
    if len({step.operation for step, _ in steps}) != 1:
        raise TypeError('the statements of a batch are of one class')
    return steps[0][0]


def _check_plain(statement: Statement) -> None:
    # Otherwise the result of its condition would be lost.
    if statement.operation in consistency.CONDITIONAL:
        raise TypeError(f'conditional, for cas() only: {statement}')


def _check_ttl(ttl: Any) -> None:
    # Null, unset and 0 all mean "for ever".
    if not isinstance(ttl, int) or not 0 < ttl <= clock.MAX_TTL:
        raise ValueError(f'a TTL is 1 to {clock.MAX_TTL} s, not {ttl!r}')
