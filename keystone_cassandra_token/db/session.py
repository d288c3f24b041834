# SPDX-License-Identifier: Apache-2.0
"""The connection to Cassandra: one cluster and session for each process.

Opened at the first use, never at import, and again in a child after fork,
since the driver's sockets and threads do not survive one.  A failed attempt
is remembered for a second, so that a queue of requests does not wait for the
same time-out one after the other.

The driver does not always find back: it gives up a node for ever that has
refused a log-in once, and never asks again for the addresses behind a name.
So a session that reaches no node for some seconds is replaced: a thread opens
another one, again and again, while requests fail at once.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import deadline, errors, metrics
from keystone_cassandra_token.db.agreement import CutOff
from keystone_cassandra_token.db.connection import (
    LOST_AFTER,
    Connection,
    Place,
    ReconnectionPolicy,
    connect,
)
from keystone_cassandra_token.db.outage import Outage
from keystone_cassandra_token.db.threads import Turns

#: Seconds for which a failed attempt to connect answers for the next ones.
FAILURE_HOLDS = 1.0

#: What fails, in the log's view, when there is no session.
CONNECTING = 'connect'

#: Checks a new connection, given the options of ``[cassandra]``.
Verify = Callable[[Connection, Mapping[str, Any]], None]


class Sessions:
    """Gives the process its connection, opening it when there is none.

    :param conf: where the options are registered.
    :param verify: called with a new connection before it is used; raises
        :class:`~errors.StoreUnavailable` to refuse it.
    :param place: where to connect to, if not where the options say.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        verify: Verify | None = None,
        place: Place | None = None,
    ) -> None:
        self._conf = conf
        self._verify = verify
        self._place = place
        self._begin()
        _OPEN.add(self)

    def _begin(self) -> None:
        self.lock = threading.Lock()
        self.current: Connection | None = None
        # The attempt under way, of whatever thread.
        self._attempt: concurrent.futures.Future[Connection] | None = None
        self._replacing = False
        # Until when, and what to raise: without the exception itself, whose
        # traceback would keep a closed cluster in memory.
        self._failed: (
            tuple[float, type[errors.StoreUnavailable], str] | None
        ) = None
        self.cut_off = CutOff()
        self.outage = Outage()
        self.turns = Turns()

    def get(self) -> Connection:
        """Return the process's connection.

        :raises StoreUnavailable: if there is none and none can be made.
        """
        current = self.current
        if current is not None and current.pid == os.getpid():
            return current
        with self.lock:
            current = self.current
            if current is not None and current.pid == os.getpid():
                return current
            if self._failed and time.monotonic() < self._failed[0]:
                _, kind, reason = self._failed
                raise kind(reason)
            attempt = self._attempt or self._start_attempt()
        try:
            return attempt.result(self._patience())
        except concurrent.futures.TimeoutError:
            raise errors.StoreUnavailable(
                'Connecting to Cassandra takes longer than [cassandra]'
                ' request_deadline.'
            ) from None

    def _patience(self) -> float | None:
        try:
            most = self._conf.cassandra.request_deadline
        except (cfg.Error, ValueError):
            return None  # the attempt tells what is wrong
        left = deadline.remaining(most)
        return most if left is None and deadline.is_server() else left

    def _start_attempt(self) -> concurrent.futures.Future[Connection]:
        """Open a connection in a thread: an attempt cannot be interrupted."""
        attempt = self._attempt = concurrent.futures.Future()

        def run() -> None:
            try:
                connection = self._open()
            except BaseException as error:
                with self.lock:
                    if self._attempt is attempt:
                        self._attempt = None
                attempt.set_exception(error)
                return
            with self.lock:
                wanted = self._attempt is attempt
                if wanted:
                    self.current, self._attempt = connection, None
            if not wanted:  # closed meanwhile
                connection.cluster.shutdown()
            attempt.set_result(connection)

        threading.Thread(
            target=run, name='cassandra connect', daemon=True
        ).start()
        return attempt

    def _open(self) -> Connection:
        try:
            connection = connect(self._conf, place=self._place)
            try:
                if self._verify is not None:
                    self._verify(connection, self._conf.cassandra)
            except BaseException:
                connection.cluster.shutdown()
                raise
        except (options.ConfigurationError, cfg.Error, ValueError) as error:
            raise self._fail(errors.StoreUnavailable(str(error))) from error
        except errors.StoreUnavailable as error:
            self._fail(error)
            raise
        except errors.DRIVER_ERRORS as error:
            raise self._fail(errors.translate(error, CONNECTING)) from error
        except RuntimeError as error:
            # The process ends: its threads take nothing more.
            raise errors.StoreUnavailable(f'{error}.') from error
        self._failed = None
        metrics.count(metrics.SESSIONS, 'opened')
        self.outage.ended(CONNECTING)
        return connection

    def _fail(
        self, failure: errors.StoreUnavailable
    ) -> errors.StoreUnavailable:
        self._failed = (
            time.monotonic() + FAILURE_HOLDS,
            type(failure),
            failure.reason,
        )
        metrics.count(metrics.SESSIONS, 'failed')
        self.outage.began(CONNECTING, failure.reason)
        return failure

    def failed(self, connection: Connection) -> None:
        """Note that a statement failed; replace a session that is lost."""
        if self.current is not connection or not connection.is_lost():
            return
        with self.lock:
            if self._replacing or self.current is not connection:
                return
            self._replacing = True
        threading.Thread(
            target=self._replace,
            args=(connection,),
            name='cassandra reconnect',
            daemon=True,
        ).start()

    def _replace(self, lost: Connection) -> None:
        """Try to open another session until one of the two has a node."""
        pause = ReconnectionPolicy().new_schedule()
        self.outage.goes_on(
            CONNECTING,
            f'No node could be reached for {LOST_AFTER:g} s: connecting'
            ' afresh.',
        )
        try:
            while self.current is lost and lost.is_lost():
                try:
                    connection = self._open()
                    reason = ''
                except errors.StoreUnavailable as failure:
                    reason = failure.reason
                if reason:
                    self.outage.goes_on(
                        CONNECTING, f'Connecting afresh failed: {reason}'
                    )
                    time.sleep(next(pause))
                    continue
                with self.lock:
                    replaced = self.current is lost
                    if replaced:
                        self.current = connection
                if replaced:
                    metrics.count(metrics.SESSIONS, 'replaced')
                (lost if replaced else connection).cluster.shutdown()
            self.outage.ended(CONNECTING)
        finally:
            self._replacing = False

    def forget(self) -> None:
        """Drop the connection without closing it: it is a parent's."""
        # New locks too: another thread may have held one during the fork.
        self._begin()

    def close(self) -> None:
        """Close the process's connection; the next use opens a new one."""
        with self.lock:
            current, self.current = self.current, None
            self._failed = self._attempt = None
        if current is not None and current.pid == os.getpid():
            current.cluster.shutdown()


_OPEN: weakref.WeakSet[Sessions] = weakref.WeakSet()


def _sampled() -> Iterator[tuple[metrics.Metric, float]]:
    """Yield what the gauges of this process show."""
    pools = [
        pool.get_state()
        for sessions in list(_OPEN)
        if (connection := sessions.current) is not None
        for pool in connection.session.get_pools()
    ]
    yield metrics.CONNECTIONS, sum(pool['open_count'] for pool in pools)
    yield (
        metrics.UNDER_WAY,
        sum(sum(pool['in_flights']) for pool in pools),
    )


metrics.samplers.append(_sampled)


def _after_fork() -> None:
    for sessions in list(_OPEN):
        sessions.forget()


os.register_at_fork(after_in_child=_after_fork)
