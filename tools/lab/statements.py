# SPDX-License-Identifier: Apache-2.0
"""What a server sends to its databases, request by request.

Counted are each request of a Cassandra session, and what SQLAlchemy tells of:
statements, COMMIT, ROLLBACK and the test of a connection that comes from its
pool.

What matters for time is what waits for what.  A request to Cassandra is
*behind* those whose answers its thread had by then, so requests that are
under way at once are one wait.  What goes to MariaDB is behind all before it.
"""

import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: Names a file, for :mod:`lab.wsgi`.
VARIABLE = 'KEYSTONE_LAB_STATEMENTS'
_ENDS = ('COMMIT', 'ROLLBACK')
#: What SQLAlchemy's pool asks to find out whether a connection still lives.
_PING = 'PING'


class Sent(NamedTuple):
    """One statement."""

    text: str
    #: 1 for what waits for nothing; else one more than the highest of those
    #: whose answers were there.
    wait: int


@dataclasses.dataclass(frozen=True)
class Trips:
    """What one request cost."""

    statements: int  # all that was sent but the following
    ends: int  # COMMIT and ROLLBACK
    pings: int  # tests of a connection
    waits: int  # round trips that followed each other


def trips(sent: Iterable[Sent]) -> Trips:
    """Return what statements cost together."""
    sent = list(sent)
    ends = sum(each.text in _ENDS for each in sent)
    pings = sum(each.text == _PING for each in sent)
    waits = max((each.wait for each in sent), default=0)
    return Trips(len(sent) - ends - pings, ends, pings, waits)


class _Request(threading.local):
    """The request that a thread answers."""

    def __init__(self) -> None:
        self.clear()

    def send(self, text: str) -> int:
        """Note a statement and return its wait."""
        wait = self._answered + 1
        self.sent.append(Sent(text, wait))
        return wait

    def answer(self, wait: int) -> None:
        """Note that this answer is there."""
        self._answered = max(self._answered, wait)

    def clear(self) -> None:
        """Begin with another request."""
        self.sent: list[Sent] = []
        self._answered = 0


class Record:
    """Writes down what each request sends.

    :param path: a file; each request adds a line, see :func:`read`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.request = _Request()

    def watch(self) -> None:
        """Take note of all that this process sends from now on."""
        _watch_cassandra(self.request)
        _watch_sql(self.request)

    def begin(self) -> None:
        """Begin with a request of this thread."""
        self.request.clear()

    def end(self, environ: Mapping[str, Any]) -> None:
        """Write down what the request has sent."""
        line = {
            'request': f'{environ["REQUEST_METHOD"]} {environ["PATH_INFO"]}',
            'sent': [[each.wait, each.text] for each in self.request.sent],
        }
        with self._lock, open(self._path, 'a') as file:
            file.write(json.dumps(line) + '\n')


def read(path: Path) -> list[list[Sent]]:
    """Return what each request sent."""
    return [
        [Sent(text, wait) for wait, text in json.loads(line)['sent']]
        for line in path.read_text().splitlines()
    ]


def _watch_cassandra(request: _Request) -> None:
    from keystone_cassandra_token.db.store import Store

    def noted(statements: tuple[Any, ...], send: Any) -> Any:
        text = statements[0].cql
        if len(statements) > 1:
            text = f'BATCH of {len(statements)}'
        wait = request.send(text)
        future = send()
        # Of this one alone: the driver asks for itself, too.
        result, next_page = future.result, future.start_fetching_next_page

        def answered() -> Any:
            try:
                return result()
            finally:
                request.answer(wait)

        def another_page() -> None:
            nonlocal wait
            wait = request.send(text)
            next_page()

        future.result = answered
        future.start_fetching_next_page = another_page
        return future

    Store.interceptors = (*Store.interceptors, noted)


def _watch_sql(request: _Request) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import Pool

    def sent(text: str) -> None:
        request.answer(request.send(text))

    @event.listens_for(Engine, 'before_cursor_execute')
    def executed(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        sent(text)

    for name in _ENDS:
        event.listen(Engine, name.lower(), lambda _, name=name: sent(name))

    @event.listens_for(Pool, 'connect')
    def connected(_: Any, record: Any) -> None:
        record.info['lab_new'] = True

    @event.listens_for(Pool, 'checkout')
    def taken(_: Any, record: Any, __: Any) -> None:
        # Keystone has each connection tested that is not new.
        if not record.info.pop('lab_new', False):
            sent(_PING)

    @event.listens_for(Pool, 'reset')
    def given_back(_: Any, __: Any, state: Any) -> None:
        if not state.transaction_was_reset:
            sent('ROLLBACK')
