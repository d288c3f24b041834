# SPDX-License-Identifier: Apache-2.0
"""What was made in another datacenter a moment ago, and is not yet here.

It arrives after half a round trip; a client can be sooner.  So what a client's
request does not find here is sought where it may have been made: one read at
LOCAL_QUORUM, by the nodes of that datacenter.

What does not say where it was made, and cannot be told from an invention, is
asked of all others side by side, so many times a second, and not again for a
second.  Who cannot answer is left alone for a second, and what is found here
stands.  Commands ask nobody, nor does a server of the only datacenter.

Each other datacenter has a session of its own, beside the one by which this
process lives: what happens there is no outage here, and slows nobody down.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import hashlib
import os
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, TypeVar

from oslo_log import log

from keystone_cassandra_token.db import (
    changes,
    clock,
    deadline,
    elsewhere,
    errors,
    metrics,
    remembered,
)
from keystone_cassandra_token.db.connection import Connection, Place
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

A = TypeVar('A')
T = TypeVar('T')
Judge = Callable[[list[Any]], Any]

#: Seconds in which another datacenter answers, or what is found here stands.
WITHIN = 1.0
#: Seconds for which it is left alone after a failure.
HOLDS = 1.0
#: Seconds for which it is known that something was not there.
MISSING_FOR = 1.0
#: What is known so at most.
MOST_MISSING = 10_000

#: How long ago what is sought can have been made: what is older has arrived,
#: or late by more than a moment, and may have been deleted here.
FRESH = datetime.timedelta(minutes=15)
#: By how much the clock of who made it may be ahead.
AHEAD = datetime.timedelta(minutes=2)

#: What stands for the answer of who cannot be asked.
FAILED = object()

#: What is prepared when a session is opened: else the first one that is
#: sought waits for one more round trip.
SOUGHT: set[Statement] = set()


def is_fresh(made_at: datetime.datetime) -> bool:
    """Return whether something may have been made a moment ago."""
    return -AHEAD <= clock.utcnow() - made_at <= FRESH


def is_born(incarnation: uuid.UUID | None) -> bool:
    """Return whether an entity was born a moment ago.

    :param incarnation: the first one; of former versions there is none.
    """
    return incarnation is not None and is_fresh(
        clock.from_micros(clock.micros_of(incarnation))
    )


class Bucket:
    """How often something may be done: so many times a second, on average.

    Twice as many at once, where nothing was done for two seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._left = float('inf')
        self._at = now()

    def take(self, rate: float) -> bool:
        """Return whether it may be done once more, now.

        :param rate: times a second.
        """
        with self._lock:
            now = self._now()
            left = self._left + (now - self._at) * rate
            self._left, self._at = min(left, max(1.0, 2 * rate)), now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Missing:
    """What was not there a moment ago; hashes only."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._until: collections.OrderedDict[bytes, float]
        self._until = collections.OrderedDict()

    def add(self, key: bytes) -> None:
        """Note that something was not there."""
        with self._lock:
            now = self._now()
            self._until[key] = now + MISSING_FOR
            self._until.move_to_end(key)
            while (
                len(self._until) > MOST_MISSING
                or next(iter(self._until.values())) <= now
            ):
                self._until.popitem(last=False)

    def __contains__(self, key: bytes) -> bool:
        return self._until.get(key, 0.0) > self._now()

    def __len__(self) -> int:
        return len(self._until)


class There:
    """Another datacenter, as this process reaches it.

    :ivar store: with a session of its own; not opened at first.
    :ivar place: where its nodes are.
    :ivar held_until: after a failure, when it is asked again, as ``now``
        counts.
    :ivar connecting: the thread that opens a session.
    """

    def __init__(
        self,
        store: Store,
        place: Place,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.place = place
        self._now = now
        self._failed = False
        self.held_until = 0.0
        self.connecting: threading.Thread | None = None
        self._is_closed = False

    def may_be_asked(self) -> bool:
        """Return whether it is worth a try.

        After a failure by one caller each second, and not before there is a
        session: nobody waits for that twice.
        """
        if not self._failed:
            return True
        now = self._now()
        if now < self.held_until:
            return False
        self.held_until = now + HOLDS
        if self.store.sessions.current is None:
            self.connect_soon()
            return False
        return True

    def ask(self, look: Callable[[Store], T], end: float) -> T | object:
        """Return what is found there, or that it cannot be told.

        :param end: by when, as ``time.monotonic()`` counts.
        """
        try:
            # What fails there lets the request forget nothing of here.
            with deadline.until(end), remembered.within_request():
                found = look(self.store)
        except (errors.StoreUnavailable, errors.StatementRefused) as failure:
            LOG.debug('%s: %s', self.place.datacenter, failure)
            self.has_failed()
            return FAILED
        self._failed = False
        return found

    def has_failed(self) -> None:
        """Note that it cannot be reached."""
        self.held_until = self._now() + HOLDS
        self._failed = True

    def close(self) -> None:
        """Close the session, for good."""
        self._is_closed = True
        self.store.close()

    def connect_soon(self) -> None:
        """Open a session in a thread, if none does so already."""
        if self.connecting is None or not self.connecting.is_alive():
            self.connecting = threading.Thread(
                target=self._connect, name='cassandra elsewhere', daemon=True
            )
            self.connecting.start()

    def _connect(self) -> None:
        try:
            connection = self.store.sessions.get()
        except errors.StoreUnavailable as failure:
            LOG.debug('%s: %s', self.place.datacenter, failure.reason)
            self.has_failed()
            return
        if self._is_closed:  # meanwhile
            self.store.close()
            return
        # What cannot be prepared now is prepared when it is sent.
        with contextlib.suppress(*errors.DRIVER_ERRORS):
            for statement in SOUGHT:
                connection.prepare(statement)


class Escalation:
    """Asks other datacenters, for one store.

    :ivar there: the other datacenters that were asked, by name.

    :param db: the store, with which it is closed.
    """

    def __init__(self, db: Store) -> None:
        self._db = db
        self.begin()
        _ALL.add(self)

    def begin(self) -> None:
        """Begin; in a child after a fork, too, whose parent had the rest."""
        self._lock = threading.Lock()
        self.there: dict[str, There] = {}
        self._bucket = Bucket()
        self._missing = Missing()

    def others(self) -> set[str]:
        """Return the other datacenters that may be asked."""
        if not deadline.serving.is_set() or not self._rate:
            return set()
        connection = self._db.sessions.get()
        return changes.datacenters(connection) - {connection.local_dc}

    def ask(
        self,
        key: Hashable,
        look: Callable[[Store], T | None],
        among: Callable[[Iterable[str]], Collection[str]] = set,
        is_known: bool = False,
    ) -> T | None:
        """Return what another datacenter has, None if none is known to.

        :param key: what is sought.
        :param look: seeks it in a store.
        :param among: returns which datacenters can have it.
        :param is_known: whether it was made by somebody, and is no invention.
        """
        found: T | None = self._ask(key, look, among, is_known, None)
        return found

    def ask_all(
        self,
        key: Hashable,
        look: Callable[[Store], A],
        judge: Callable[[list[A]], T | None],
    ) -> T | None:
        """Return what all other datacenters together say is there, or None.

        None too if one of them says nothing.

        :param look: what is asked in each, None being no answer.
        :param judge: makes one of their answers.
        """
        found: T | None = self._ask(key, look, set, False, judge)
        return found

    def _ask(
        self,
        key: Hashable,
        look: Callable[[Store], Any],
        among: Callable[[Iterable[str]], Collection[str]],
        is_known: bool,
        judge: Judge | None,
    ) -> Any:
        others = self.others()
        names = among(others) if others else ()
        if not names:
            return None
        reads = remembered.current()
        known: Any = reads and reads.get(_of_request(key))
        if known is not None:
            return known[0]
        hashed = hashlib.sha256(repr(key).encode()).digest()
        if not is_known:
            if hashed in self._missing:
                return None
            if not self._bucket.take(self._rate):
                metrics.count(metrics.ESCALATIONS, 'refused')
                return None
        found, outcome = self._sought(look, names, others, judge)
        metrics.count(metrics.ESCALATIONS, outcome)
        if outcome == 'missing' and not is_known:
            self._missing.add(hashed)
        if outcome in ('found', 'missing'):
            self.remember(key, found)
        return found

    def remember(self, key: Hashable, found: object) -> None:
        """Let the client's request under way know what was found."""
        reads = remembered.current()
        if reads is not None:
            reads.keep(_of_request(key), [found])

    def connect(self) -> None:
        """Open the sessions with all others, in threads."""
        others = self.others()
        for each in self.reached(others, others):
            each.connect_soon()

    def close(self) -> None:
        """Close all sessions; the next use opens new ones."""
        with self._lock:
            closed, self.there = self.there, {}
        for each in closed.values():
            each.close()

    @property
    def _rate(self) -> float:
        return float(self._db.conf.cassandra.escalation_rate)

    def _sought(
        self,
        look: Callable[[Store], Any],
        names: Collection[str],
        others: Collection[str],
        judge: Judge | None,
    ) -> tuple[Any, str]:
        """Return what was found, and the outcome.

        :param judge: makes one of all answers; None if the first counts.
        """
        reached = self.reached(names, others)
        asked = [each for each in reached if each.may_be_asked()]
        now = time.monotonic()
        end = now + WITHIN
        request_end = deadline.end(self._db.conf.cassandra.request_deadline)
        if request_end is not None:
            end = min(end, request_end)
        if not asked or end - now < deadline.LEAST:
            return None, 'held'
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask(there: There) -> None:
            try:
                answers.put(there.ask(look, end))
            except Exception as error:  # raised by who waits
                answers.put(error)

        if len(asked) == 1:
            ask(asked[0])
        else:
            for each in asked:
                threading.Thread(
                    target=ask, args=(each,), name='cassandra ask', daemon=True
                ).start()
        outcome = 'missing' if len(asked) == len(names) else 'held'
        all_said = []
        for _ in asked:
            try:
                said = answers.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None, 'failed'
            if isinstance(said, Exception):
                raise said
            if said is FAILED:
                outcome = 'failed'
            elif judge:
                all_said.append(said)
            elif said is not None:
                return said, 'found'
        found = judge(all_said) if judge and outcome == 'missing' else None
        return found, outcome if found is None else 'found'

    def reached(
        self, names: Collection[str], others: Collection[str]
    ) -> list[There]:
        """Return some of the other datacenters, as far as nodes are known.

        Of those that are no more, and where none of the nodes is any more,
        the sessions are closed.
        """
        connection = self._db.sessions.get()
        with self._lock:
            gone = [
                self.there.pop(name) for name in self.there.keys() - {*others}
            ]
            reached = []
            for name in sorted(names):
                place = elsewhere.place_of(connection, name, single_reads=True)
                known = self.there.get(name)
                if known is not None and known.place != place:
                    gone.append(self.there.pop(name))
                    known = None
                if known is None:
                    store = elsewhere.store_in(self._db, place).for_helpers()
                    known = self.there[name] = There(store, place)
                reached.append(known)
        for each in gone:
            threading.Thread(
                target=each.close, name='cassandra close', daemon=True
            ).start()
        return reached


def _of_request(key: Hashable) -> tuple[str, Hashable]:
    """Return as what a request remembers what was found elsewhere."""
    return 'elsewhere', key


def one(
    db: Store, get: Statement, row: Row, row_id: str
) -> dict[str, Any] | None:
    """Return a row that another datacenter wrote a moment ago, or None.

    There must be no row here.

    :param get: reads it by ``id``, and as ``written`` when it was written,
        microseconds since 1970.
    """
    if db.escalation is None:
        return None

    def look(there: Store) -> dict[str, Any] | None:
        found = there.one(get, row, id=row_id)
        written = found and found['written']
        is_young = written and is_fresh(clock.from_micros(written))
        return found if is_young else None

    return db.escalation.ask((get.table, row_id), look)


def start(db: Store, connection: Connection) -> None:
    """Open the sessions with other datacenters, in a thread.

    Once the process answers requests of clients, unless the connection is
    closed before.
    """
    escalation = db.escalation
    if escalation is None or not changes.are_told(connection):
        return

    def run() -> None:
        while not deadline.serving.wait(1.0):
            if connection.cluster.is_shutdown:
                return
        # Who needs one next tries it.
        with contextlib.suppress(errors.StoreUnavailable):
            if not connection.cluster.is_shutdown:
                escalation.connect()

    threading.Thread(
        target=run, name='cassandra escalation', daemon=True
    ).start()


_ALL: weakref.WeakSet[Escalation] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_ALL):
        each.begin()


os.register_at_fork(after_in_child=_after_fork)
