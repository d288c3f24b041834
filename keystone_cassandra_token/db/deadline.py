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
import sys
import threading
import time
from collections.abc import Callable, Iterator

import flask
from oslo_log import log

from keystone_cassandra_token.db.agreement import Silence

LOG = log.getLogger(__name__)

#: In a WSGI environment: when the request must be answered, as
#: ``time.monotonic()`` counts.
_KEY = 'keystone_cassandra_token.deadline'

#: In a WSGI environment: since when other regions are silent.
_SILENCE = 'keystone_cassandra_token.silence'

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

#: The module by which each WSGI server loads Keystone, and no command does.
SERVED = 'keystone.server.wsgi'


def is_server() -> bool:
    """Return whether this process serves clients, or is about to.

    Of the requests that it serves Keystone's own middleware has no context
    yet: without the filter nothing tells a request from a command there.
    """
    return serving.is_set() or SERVED in sys.modules


@contextlib.contextmanager
def _with(name: str, value: object) -> Iterator[None]:
    """Let this thread have a value in a ``with`` block."""
    before = getattr(_current, name, None)
    setattr(_current, name, value)
    try:
        yield
    finally:
        setattr(_current, name, before)


def until(end: float | None) -> contextlib.AbstractContextManager[None]:
    """Let the statements of a ``with`` block end together.

    :param end: as ``time.monotonic()`` counts; None for no end.
    """
    return _with('end', end)


def within(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Give all statements of a ``with`` block so many seconds together."""
    return until(time.monotonic() + seconds)


@contextlib.contextmanager
def of_request(seconds: float) -> Iterator[None]:
    """Let a ``with`` block be a client's request, with so many seconds."""
    with within(seconds), _with('silence', Silence()):
        yield


def shared(
    seconds: float,
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what lets another thread do a part of the request under way.

    :param seconds: as for :func:`end`.
    """
    found, served = end(seconds), silence() is not None

    @contextlib.contextmanager
    def part() -> Iterator[None]:
        heard = Silence() if served else None
        with until(found), _with('silence', heard):
            yield

    return part


def silence() -> Silence | None:
    """Return since when the client's request under way hears nothing.

    None if no request of a client is served in this thread.
    """
    found: Silence | None = getattr(_current, 'silence', None)
    if found is None and flask.has_request_context():
        environ = flask.request.environ
        found = environ.get(_SILENCE)
        if found is None:
            found = environ[_SILENCE] = Silence()
    return found


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
