# SPDX-License-Identifier: Apache-2.0
"""One deadline for all that a request of a client waits for.

A request reads from Cassandra many times, one after the other, and each read
could meet a node that hangs: what bounds one statement bounds no request.
The WSGI filter begins it (:mod:`..wsgi_filter`); where that is not installed,
a request has one from the first statement in Keystone's Flask
application on.  Commands have none.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator

import flask
from oslo_log import log

LOG = log.getLogger(__name__)

#: In a WSGI environment: when the request must be answered, as
#: ``time.monotonic()`` counts.
_KEY = 'keystone_cassandra_token.deadline'

#: In a WSGI environment: that the filter is installed.
FILTERED = 'keystone_cassandra_token.filtered'

_NO_FILTER = (
    'Keystone is not served by keystone_cassandra_token.wsgi:application:'
    ' [cassandra] request_deadline does not cover the validation of tokens,'
    ' and 503 has no Retry-After.'
)

#: Seconds that a statement is given at least: what is nearly over is tried.
LEAST = 0.05

_current = threading.local()

#: Set once this process answers requests of clients.
serving = threading.Event()


@contextlib.contextmanager
def until(end: float | None) -> Iterator[None]:
    """Let the statements of a ``with`` block end together.

    :param end: as ``time.monotonic()`` counts; None for no end.
    """
    before = getattr(_current, 'end', None)
    _current.end = end
    try:
        yield
    finally:
        _current.end = before


def within(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Give all statements of a ``with`` block so many seconds together."""
    return until(time.monotonic() + seconds)


def sooner(
    seconds: float, request: float
) -> contextlib.AbstractContextManager[None]:
    """Let a ``with`` block end sooner than the request under way.

    For what can be left, so that it leaves time for what cannot.

    :param seconds: what the block is given at most, if there is a request.
    :param request: as for :func:`end`.
    """
    found = end(request)
    return until(found and min(found, time.monotonic() + seconds))


def end(seconds: float) -> float | None:
    """Return when the request under way ends, as ``time.monotonic()`` counts.

    :param seconds: what a request is given that nobody has given any.
    :returns: None if there is no request.
    """
    found: float | None = getattr(_current, 'end', None)
    if found is None and flask.has_request_context():
        serving.set()
        environ = flask.request.environ
        found = environ.get(_KEY)
        if found is None:
            found = environ[_KEY] = time.monotonic() + seconds
            if FILTERED not in environ:
                tell_of_no_filter()
    return found


@functools.cache
def tell_of_no_filter() -> None:
    """Log once that Keystone is served without the filter."""
    LOG.warning(_NO_FILTER)


def remaining(seconds: float) -> float | None:
    """Return the seconds that the request under way has left, at least 0."""
    found = end(seconds)
    return None if found is None else max(0.0, found - time.monotonic())
