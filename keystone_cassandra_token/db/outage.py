# SPDX-License-Identifier: Apache-2.0
"""One log line for an outage instead of a traceback for each request.

Keystone logs a traceback for every answer of 5xx, and the driver one for
every attempt to connect.  While Cassandra is away these are many and all say
the same; so the first failure is logged in one line here, the recovery in
another, and filters keep the tracebacks of :class:`StoreUnavailable` out of
Keystone's log and repetitions out of the driver's.
"""

from __future__ import annotations

import logging
import threading
import time

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


class Outage:
    """What fails now, and why, by kind of operation.

    By kind, since a datacenter that is cut off answers everything except
    agreement with the others: that is one outage, not one for each request.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reasons: dict[str, str] = {}

    def began(self, kind: str, reason: str) -> None:
        """Note a failure; logged if it is a new one."""
        with self.lock:
            known = self.reasons.get(kind) is not None
            self.reasons[kind] = reason
        if not known:
            LOG.error(
                '%s (%s) Requests that need it are answered with 503.',
                reason,
                kind,
            )

    def ended(self, kind: str) -> None:
        """Note a success; logged if it ends an outage."""
        if kind not in self.reasons:  # the usual case takes no lock
            return
        with self.lock:
            if self.reasons.pop(kind, None) is None:
                return
        LOG.warning('Cassandra answers again. (%s)', kind)


class _WithoutOutages(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        # The middleware logs the exception itself in place of a text.
        return not any(
            isinstance(error, errors.StoreUnavailable)
            for error in (raised, record.msg)
        )


class _OnceAMinute(logging.Filter):
    """Cuts tracebacks, and what was said a moment ago of the same thing."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
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
_ONCE_A_MINUTE = _OnceAMinute()


def quieten() -> None:
    """Set the filters; idempotent."""
    for name in _KEYSTONE_LOGGERS:
        logging.getLogger(name).addFilter(_WITHOUT_OUTAGES)
    for name in _DRIVER_LOGGERS:
        logging.getLogger(name).addFilter(_ONCE_A_MINUTE)
