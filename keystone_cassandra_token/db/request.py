# SPDX-License-Identifier: Apache-2.0
"""Requests to Cassandra: sent, waited for, sent once more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import cassandra
import cassandra.query

from keystone_cassandra_token.db import errors, metrics, watch
from keystone_cassandra_token.db.agreement import Turn
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement

T = TypeVar('T')
U = TypeVar('U')


#: Sends a request and returns the driver's future.
Send = Callable[[], Any]
#: Stands between a store and Cassandra: is given the statements of a request
#: and how to send it, and returns the future, or one like it.
Interceptor = Callable[[tuple[Statement, ...], Send], Any]


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


class Request:
    """A request that was sent, and is sent once more if no node answers.

    What is not idempotent is sent once.

    :param later: whether something else is done before its result is waited
        for: then the thread that hears the answer says how long it took.
    :param wait: seconds in which it is answered, or given up: it is not sent
        once more.
    :param turn: where other regions must answer a client's request.
    """

    def __init__(
        self,
        connection: Connection,
        statements: tuple[Statement, ...],
        query: cassandra.query.Statement,
        profile: object,
        interceptors: Iterable[Interceptor],
        later: bool = False,
        wait: float | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._turn = turn
        self._is_turn_shorter = False
        self._later = later
        self._again = wait is None
        self._answer: watch.Answer | None = None
        self._connection = connection
        self._statements = statements
        self._query = query
        self._profile = profile
        self._interceptors = interceptors
        # Half of the time, also of what is not idempotent: whoever finds out
        # what became of it needs some.
        left = self._time_left(0.5)
        self._sent = self._send(left if wait is None else min(left, wait))

    def _time_left(self, share: float = 1.0) -> float:
        left = self._connection.time_left(share)
        if self._turn is None:
            return left
        seconds = self._turn.seconds()
        self._is_turn_shorter = seconds < left
        return min(left, seconds)

    def _send(self, timeout: float) -> Any:
        send: Send = functools.partial(
            self._connection.session.execute_async,
            self._query,
            timeout=timeout,
            execution_profile=self._profile,
        )
        for interceptor in self._interceptors:
            send = functools.partial(interceptor, self._statements, send)
        if not metrics.current.on:
            return send()
        self._answer = watch.Answer(self._statements)
        sent = send()
        if self._later:
            sent.add_callbacks(self._answer.came, self._answer.failed)
        return sent

    def _wait(self, sent: Any) -> Any:
        if self._turn is None:
            return self._answered(sent)
        try:
            found = self._answered(sent)
        except cassandra.OperationTimedOut as error:
            self._turn.failed(error)
            if not self._is_turn_shorter:
                raise
            raise errors.Unheard(error.errors, error.last_host) from error
        except errors.DRIVER_ERRORS as error:
            self._turn.failed(error)
            raise
        self._turn.answered()
        return found

    def _answered(self, sent: Any) -> Any:
        if self._answer is None or self._later:
            return sent.result()  # counted by nobody, or when it comes
        try:
            found = sent.result()
        except BaseException as error:
            self._answer.failed(error)
            raise
        self._answer.came()
        return found

    def result(self) -> Any:
        """Wait for the answer."""
        if watch.traced():
            with watch.span(self._connection, self._statements):
                return self._result()
        return self._result()

    def _result(self) -> Any:
        balancing = self._connection.balancing
        try:
            found = self._wait(self._sent)
        except cassandra.OperationTimedOut as error:
            operation = self._statements[0].operation
            # Else it may have waited for another datacenter.
            if self._again and operation is not Operation.ESCALATED_READ:
                balancing.is_slow(error.last_host)
            if not (self._again and self._query.is_idempotent):
                raise
            if self._turn is not None and self._turn.is_over():
                raise
            metrics.count(metrics.RETRIES, operation.value)
            return self._wait(self._send(self._time_left()))
        tried = getattr(self._sent, 'attempted_hosts', None)
        if tried:
            balancing.answered(self._sent.coordinator_host, tried)
            if len(tried) > 1 and metrics.current.on:
                watch.answered(self._statements, self._sent)
        return found
