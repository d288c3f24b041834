# SPDX-License-Identifier: Apache-2.0
"""What a client's request waits for last, once it has done all else.

In the strict mode a revocation is durable in this datacenter before the
request goes on, and on its way to the others.  What follows must not break
off because one of them is away, and need not wait for it: so all that is on
its way is waited for at once, before the client is answered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from keystone_cassandra_token.db.request import Future

_current = threading.local()


class Awaited:
    """What one request has sent, and waits for at its end."""

    def __init__(self) -> None:
        self._sent: list[Future[None]] = []

    def add(self, sent: Future[None]) -> None:
        """Wait for this, too."""
        self._sent.append(sent)

    def result(self) -> None:
        """Wait for all; raise what one of them has ended with."""
        sent, self._sent = self._sent, []
        with contextlib.ExitStack() as waiting:
            for each in sent:
                waiting.callback(each.result)


@contextlib.contextmanager
def within_request() -> Iterator[Awaited]:
    """Let a ``with`` block be the request of one client."""
    before = getattr(_current, 'awaited', None)
    _current.awaited = awaited = Awaited()
    try:
        yield awaited
    finally:
        _current.awaited = before


def at_last(sent: Future[None]) -> None:
    """Wait for what was sent: at the end of the request, if there is one."""
    awaited: Awaited | None = getattr(_current, 'awaited', None)
    if awaited is None:
        sent.result()
    else:
        awaited.add(sent)
