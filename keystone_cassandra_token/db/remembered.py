# SPDX-License-Identifier: Apache-2.0
"""What a client's request has read, so that it reads nothing twice.

Keystone asks for one user, project, grant or role in each of its layers: a
log-in would read one user six times.  What a read has found is kept until the
request has been answered, or writes anything: what it reads then may depend on
what it has written, or on what others have written meanwhile.  So a request
sees at most its own length into the past, as it does with Keystone's own
cache.

The WSGI filter begins it (:mod:`..wsgi_filter`); where that is not installed,
a request remembers from the first statement in Keystone's Flask application
on.  Commands remember nothing, nor do the threads that help with a request.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol

import flask

#: In a WSGI environment.
_KEY = 'keystone_cassandra_token.remembered'

#: The last reads of one request, and rows of one of them.
MOST = 256
LONGEST = 1000

Rows = Iterable[dict[str, Any]]

_current = threading.local()


class Answer(Protocol):
    """The answer to a read."""

    def result(self) -> Rows:
        """Return its rows, or raise what it ended with."""


class Reads:
    """What one request has read.

    :ivar notes: what is known until its end, whatever it writes.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Rows] = {}
        self.notes: dict[str, Any] = {}

    def get(self, read: Hashable) -> Rows | None:
        """Return the rows that a read has found; None if it was not made."""
        return self._found.get(read)

    def answer(self, read: Hashable, send: Callable[[], Any]) -> Answer:
        """Return the answer to a read, which is sent if it is the first.

        :param read: what tells it from others.
        """
        known = self._found.get(read)
        if known is not None:
            return _Known(known)
        return _Awaited(self._found, read, send())

    def keep(self, read: Hashable, found: Iterable[Any]) -> None:
        """Remember what was found in another way.

        :param read: what tells it from reads.
        """
        self._found[read] = found
        if len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def forget(self) -> None:
        """Forget all."""
        # What is on its way is added to the former one, where nobody looks.
        self._found = {}


class _Known:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def result(self) -> Rows:
        return self._rows


class _Awaited:
    def __init__(
        self, found: dict[Hashable, Rows], read: Hashable, request: Any
    ) -> None:
        self._found = found
        self._read = read
        self._request = request

    def result(self) -> Rows:
        answer: Any = self._request.result()
        if answer.has_more_pages:
            return answer  # type: ignore[no-any-return]
        rows = list(answer)
        if len(rows) <= LONGEST:
            self._found[self._read] = rows
            if len(self._found) > MOST:
                del self._found[next(iter(self._found))]
        return rows


@contextlib.contextmanager
def within_request() -> Iterator[None]:
    """Let a ``with`` block be the request of one client."""
    before = getattr(_current, 'reads', None)
    _current.reads = Reads()
    try:
        yield
    finally:
        _current.reads = before


def current() -> Reads | None:
    """Return what the request under way has read; None without a request."""
    found: Reads | None = getattr(_current, 'reads', None)
    if found is None and flask.has_request_context():
        found = flask.request.environ.setdefault(_KEY, Reads())
    return found


def forget() -> None:
    """Let the request under way read all again."""
    if (reads := current()) is not None:
        reads.forget()
