# SPDX-License-Identifier: Apache-2.0
"""One log line for an outage instead of a traceback for each request.

Keystone logs a traceback for every answer of 5xx, and the driver one for
every attempt to connect.  While Cassandra is away these are many and all say
the same; so the first failure is logged in one line here, the recovery in
another, and filters keep the tracebacks of :class:`StoreUnavailable` out of
Keystone's log, and the driver's lines out while there is an outage.

One line for a server, not for each of its workers: processes that were forked
after this module was loaded share a :class:`Board`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator

from oslo_log import log

from keystone_cassandra_token.db import errors

LOG = log.getLogger(__name__)

#: Where Keystone logs errors that end a request: in its error handler, and
#: in the middleware that validates the caller's token.
_KEYSTONE_LOGGERS = (
    'keystone.server.flask.application',
    'keystone.server.flask.request_processing.middleware.auth_context',
)
_DRIVER_LOGGERS = (
    'cassandra.cluster',
    'cassandra.connection',
    'cassandra.pool',
)

_MINUTE = 60.0

#: What is away: this region's nodes, or agreement with other regions.
SCOPES = ('region', 'all_regions')
#: Kinds of operations that need other regions, in each mode or in one.
_WIDE = ('lwt_global', 'lwt_global_read', 'escalated_read', 'revocation_write')

#: Seconds without a failure after which an outage that nobody has ended is
#: over: who had noticed it may have no requests any more.
FORGOTTEN = 60.0
#: Seconds for which the failure of one kind of operation lets an outage last
#: that has ended for another.
HOLDS = 5.0
#: Seconds after the end for which a process that fails on is not told of.
ECHO = 10.0


class Board:
    """What the processes of a server know of outages together.

    Shared memory, and a lock that a process that dies gives back.
    """

    #: Of a scope: begin, last failure, end; 0 or as ``time.monotonic()``
    #: counts, which is the same in all processes of a machine.  And a
    #: checksum of what was told of it last.
    _FORM = struct.Struct('dddd')

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, len(SCOPES) * self._FORM.size)
        # For the lock; as long as the process.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = threading.Lock()

    def forget_threads(self) -> None:
        """In a child, where a thread of the parent may hold the lock."""
        self._lock = threading.Lock()

    def began(self, scope: str) -> bool:
        """Note a failure; return whether it is the first of an outage."""
        with self._locked():
            begin, failure, end, told = self._read(scope)
            now = time.monotonic()
            is_new = not begin or now - failure > FORGOTTEN
            if is_new and end and now - end < ECHO:
                return False
            self._write(scope, now if is_new else begin, now, end, told)
            return is_new

    def is_news(self, scope: str, text: str) -> bool:
        """Return whether something else was told of an outage last."""
        checksum = float(zlib.crc32(text.encode()))
        with self._locked():
            *times, told = self._read(scope)
            self._write(scope, *times, checksum)
            return told != checksum

    def ended(self, scope: str) -> float | None:
        """Note a success; return how long it lasted if it ends an outage."""
        with self._locked():
            begin, failure, _, _ = self._read(scope)
            if not begin:
                return None
            now = time.monotonic()
            self._write(scope, 0.0, failure, now, 0.0)
            return now - begin

    def is_out(self) -> bool:
        return any(self._read(scope)[0] for scope in SCOPES)

    def _read(self, scope: str) -> tuple[float, float, float, float]:
        return self._FORM.unpack_from(self._memory, self._offset(scope))

    def _write(self, scope: str, *values: float) -> None:
        self._FORM.pack_into(self._memory, self._offset(scope), *values)

    def _offset(self, scope: str) -> int:
        return SCOPES.index(scope) * self._FORM.size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)


#: Of this server: made before the fork where the application is.
BOARD = Board()
os.register_at_fork(after_in_child=BOARD.forget_threads)


def scope_of(kind: str) -> str:
    """Return what is away if operations of a kind fail."""
    return SCOPES[kind in _WIDE]


class Outage:
    """What fails now in this process, and why, by kind of operation.

    :param board: that of the server.
    """

    def __init__(self, board: Board = BOARD) -> None:
        self.lock = threading.Lock()
        # When each kind has failed last.
        self.kinds: dict[str, float] = {}
        self._board = board

    def began(self, kind: str, reason: str) -> None:
        """Note a failure; logged if it is a new one."""
        scope = scope_of(kind)
        with self.lock:
            self.kinds[kind] = time.monotonic()
        if self._board.began(scope):
            LOG.error(
                '%s Requests that need it are answered with 503.'
                ' outage=began scope=%s kind=%s',
                reason,
                scope,
                kind,
            )

    def goes_on(self, kind: str, text: str) -> None:
        """Log what is new of an outage, once for a server."""
        if self._board.is_news(scope_of(kind), text):
            LOG.warning('%s outage=goes_on scope=%s', text, scope_of(kind))

    def ended(self, kind: str) -> None:
        """Note a success; logged if it ends an outage."""
        if kind not in self.kinds:  # the usual case takes no lock
            return
        scope = scope_of(kind)
        with self.lock:
            kinds = [each for each in self.kinds if scope_of(each) == scope]
            since = time.monotonic() - HOLDS
            if any(self.kinds[each] > since for each in kinds if each != kind):
                return  # as long as another kind fails
            for each in kinds:
                del self.kinds[each]
        seconds = self._board.ended(scope)
        if seconds is not None:
            LOG.warning(
                'Cassandra answers again. outage=ended scope=%s seconds=%.1f'
                ' driver_lines=%d',
                scope,
                seconds,
                OF_THE_DRIVER.take(),
            )


class Unnoted(Outage):
    """Notes nothing: what fails here is no outage of the servers."""

    def began(self, kind: str, reason: str) -> None:
        """Note nothing."""

    def goes_on(self, kind: str, text: str) -> None:
        """Note nothing."""


class _WithoutOutages(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        # The middleware logs the exception itself in place of a text.
        return not any(
            isinstance(error, errors.StoreUnavailable)
            for error in (raised, record.msg)
        )


class _OfTheDriver(logging.Filter):
    """Cuts tracebacks, and what was said a moment ago of the same thing.

    While there is an outage it lets nothing through, and counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}
        self._left_out = 0

    def take(self) -> int:
        """Return how many lines were left out since the last call."""
        count, self._left_out = self._left_out, 0
        return count

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        if BOARD.is_out():
            self._left_out += 1
            return False
        about = (
            record.args[0]
            if record.args and isinstance(record.args, tuple)
            else ''
        )
        key = (str(record.msg), str(about))
        now = time.monotonic()
        if now - self._said.get(key, -_MINUTE) < _MINUTE:
            return False
        self._said[key] = now
        record.exc_info = record.exc_text = None
        return True


_WITHOUT_OUTAGES = _WithoutOutages()
OF_THE_DRIVER = _OfTheDriver()


def quieten() -> None:
    """Set the filters; idempotent."""
    for name in _KEYSTONE_LOGGERS:
        logging.getLogger(name).addFilter(_WITHOUT_OUTAGES)
    for name in _DRIVER_LOGGERS:
        logging.getLogger(name).addFilter(OF_THE_DRIVER)
