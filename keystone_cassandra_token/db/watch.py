# SPDX-License-Identifier: Apache-2.0
"""What is seen of each request to Cassandra: metrics, and spans of osprofiler.

Both name classes of operations, tables, verbs and levels, never a value.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import cassandra
import cassandra.cluster
import cassandra.connection
import cassandra.pool
import cassandra.protocol
from osprofiler import profiler

from keystone_cassandra_token.db import errors, metrics
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.consistency import CONDITIONAL
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.metrics import Outcome, Verb

_OVERLOADED = (
    cassandra.protocol.OverloadedErrorMessage,
    cassandra.connection.ConnectionBusy,
    cassandra.pool.NoConnectionsAvailable,
)
_TIMEOUTS = (
    cassandra.OperationTimedOut,
    cassandra.ReadTimeout,
    cassandra.WriteTimeout,
)


class Answer:
    """Counts the answer to a request that is being sent, once."""

    __slots__ = ('_began', '_statements')

    def __init__(self, statements: tuple[Statement, ...]) -> None:
        self._statements: tuple[Statement, ...] | None = statements
        self._began = time.perf_counter()

    def came(self, _: object = None) -> None:
        """Count an answer without an error."""
        if self._statements is not None:  # else it is a further page
            metrics.current.observe(
                metrics.REQUESTS,
                _labels_ok(self._statements),
                time.perf_counter() - self._began,
            )
            self._statements = None

    def failed(self, error: BaseException) -> None:
        """Count an error."""
        if self._statements is not None:
            metrics.current.observe(
                metrics.REQUESTS,
                (
                    *described(self._statements),
                    outcome(self._statements[0], error).value,
                ),
                time.perf_counter() - self._began,
            )
            self._statements = None


@functools.lru_cache(maxsize=4096)
def _labels_ok(statements: tuple[Statement, ...]) -> tuple[str, ...]:
    return (*described(statements), Outcome.OK.value)


def answered(statements: tuple[Statement, ...], future: Any) -> None:
    """Count how a request that more than one node was asked was answered."""
    retried = future._query_retries
    if retried:
        metrics.count(metrics.RETRIES, statements[0].operation.value)
    elif future.coordinator_host != future.attempted_hosts[0]:
        metrics.count(metrics.SPECULATIVE_WINS, statements[0].operation.value)


def not_sent(statement: Statement) -> None:
    """Count a request that could not be sent, or had no time left."""
    metrics.current.observe(
        metrics.REQUESTS,
        (*described((statement,)), Outcome.UNAVAILABLE.value),
        0.0,
    )


def failed(statement: Statement, failure: errors.StoreUnavailable) -> None:
    """Count a conditional write of which nobody knows what became."""
    if statement.operation in CONDITIONAL and isinstance(
        failure, errors.OutcomeUnknown
    ):
        written(statement, None)


def written(statement: Statement, applied: bool | None) -> None:
    """Count a conditional write; None if it is not known."""
    result = {True: 'applied', False: 'refused', None: 'unknown'}[applied]
    metrics.count(
        metrics.CONDITIONAL_WRITES,
        statement.operation.value,
        statement.table,
        result,
    )


def described(statements: tuple[Statement, ...]) -> tuple[str, str, str]:
    """Return class, table and verb; of a batch, its first table."""
    first = statements[0]
    verb = first.verb if len(statements) == 1 else Verb.BATCH.value
    return first.operation.value, first.table, verb


def outcome(statement: Statement, error: BaseException) -> Outcome:
    """Return what a request ended with that the driver raised this for."""
    said = [error]
    if isinstance(error, cassandra.cluster.NoHostAvailable):
        said += errors.said(error)
    if errors.refusal(error, statement.cql) is not None:
        return Outcome.INVALID
    if any(isinstance(each, _OVERLOADED) for each in said):
        return Outcome.OVERLOADED
    if statement.operation in CONDITIONAL and isinstance(
        errors.translate(error, statement.cql), errors.OutcomeUnknown
    ):
        return Outcome.UNKNOWN
    if any(isinstance(each, _TIMEOUTS) for each in said):
        return Outcome.TIMEOUT
    return Outcome.UNAVAILABLE


def traced() -> bool:
    """Return whether the request under way, in this thread, has a trace."""
    return profiler.get() is not None


@contextlib.contextmanager
def span(
    connection: Connection, statements: tuple[Statement, ...]
) -> Iterator[None]:
    """Tell osprofiler of a request while its answer is waited for.

    Of several that are under way at once the waits follow each other: spans
    of one thread cannot overlap.
    """
    operation, table, verb = described(statements)
    level = connection.policy.level(statements[0].operation)
    info = {
        'operation': operation,
        'table': table,
        'verb': verb,
        'level': level.consistency,
    }
    if level.serial:
        info['serial_level'] = level.serial
    profiler.start('cassandra', {'db': info})
    ending = Outcome.OK
    try:
        yield
    except errors.DRIVER_ERRORS as error:
        ending = outcome(statements[0], error)
        raise
    except BaseException:
        ending = Outcome.UNAVAILABLE
        raise
    finally:
        # Not the exception, as osprofiler's own: its text can quote a value.
        profiler.stop({'db': {'outcome': ending.value}})
