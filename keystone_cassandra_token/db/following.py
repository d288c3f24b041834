# SPDX-License-Identifier: Apache-2.0
"""Follow the changes of other datacenters.

A thread of each server looks once a second:

1. It reads the pulses.  Each datacenter has one, which goes on as long as one
   of its servers runs, and says how far the log can have been written.
2. It reads the entries of the others' logs since a moment before their last
   pulse, and all of the last minutes now and then: a write can be late.
3. It makes sure that what they tell of can be read here.
4. It drops what Keystone's caches remember of it.

A pulse that stood still for :data:`SILENT_AFTER` means that something may have
been missed: once it goes on all is dropped, and the whole gap is read again
and again until nothing comes any more.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
import uuid
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from oslo_log import log

from keystone_cassandra_token.db import (
    changes,
    clock,
    deadline,
    errors,
    metrics,
)
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

#: Seconds between two looks.
EVERY = 1.0
#: Seconds without a beat after which something may have been missed.
SILENT_AFTER = 5.0

_SECOND = 10**6  # in microseconds
#: How far before the last pulse a look begins.
_OVERLAP = 3 * _SECOND
#: How far before it one of some looks begins.
_FAR, _FAR_EVERY = 600 * _SECOND, 60
#: One of how many looks is through a gap, and through what is left of it.
_GAP_EVERY, _LONGEST_GAP = 5, 3 * 3600 * _SECOND
#: Seconds without a late entry after which a gap has been made up for.
_QUIET = 60.0
#: Seconds for which one look waits for changes, and looks that do.
_PATIENCE, _TRIES = 2.0, 60

Entry = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Mark:
    """How far those who share a cache have followed a datacenter.

    A process that begins has no need to drop what was dropped by it.

    :ivar beat: its last pulse then, microseconds since 1970.
    :ivar done: ids of the last entries for which they have dropped something.
    """

    beat: int
    done: frozenset[uuid.UUID] = frozenset()


class Caches(Protocol):
    """What remembers what was read, for one or more processes."""

    def are_used(self) -> bool:
        """Return whether anything is remembered."""

    def begin(self) -> None:
        """Begin a look: see what others of these processes have done."""

    def mark(self, datacenter: str) -> Mark | None:
        """Return the mark of a datacenter."""

    def set_mark(self, datacenter: str, mark: Mark) -> None:
        """Keep a mark."""

    def drop(self, tables: Collection[str]) -> None:
        """Drop what could be remembered of these tables."""

    def drop_all(self) -> None:
        """Drop all."""


@dataclasses.dataclass
class _Origin:
    """What is known of another datacenter.

    :ivar beat: its last pulse.
    :ivar heard_at: when that came, as ``time.monotonic()`` counts.
    :ivar gap: where a gap began that may still be filled; None without one.
    :ivar late_at: when something last came late, as ``heard_at``.
    :ivar seen: the entries that were read.
    :ivar waiting: those of them for which something must yet be dropped, and
        how often that was tried.
    """

    name: str
    beat: int
    heard_at: float
    gap: int | None = None
    late_at: float = 0.0
    looks: int = 0
    seen: set[uuid.UUID] = dataclasses.field(default_factory=set)
    waiting: list[tuple[Entry, int]] = dataclasses.field(default_factory=list)

    def since(self) -> int:
        """Return from when on the next look reads."""
        self.looks += 1
        if self.gap is not None and self.looks % _GAP_EVERY == 1:
            return self.gap
        # The first one too: what an ended process was about to see.
        if self.looks % _FAR_EVERY == 1:
            return self.beat - _FAR
        return self.beat - _OVERLAP

    def unseen(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that were not read before."""
        new = [each for each in entries if each['id'] not in self.seen]
        self.seen.update(each['id'] for each in new)
        first = self.beat - _FAR if self.gap is None else self.gap
        self.seen = {each for each in self.seen if not _is_before(each, first)}
        return new


class Follower:
    """Follows the changes of the others for one process.

    :param db: a store.
    :param caches: what is dropped from.
    """

    def __init__(self, db: Store, caches: Caches) -> None:
        self._db = db
        self._caches = caches
        self._origins: dict[str, _Origin] = {}
        self._own: int | None = None

    def look(self) -> None:
        """Look once.

        :raises StoreUnavailable: if that cannot be done now.
        """
        connection = self._db.sessions.get()
        here = connection.local_dc
        beats: dict[str, int] = {
            row['datacenter']: row['beat']
            for row in self._db.rows(changes.PULSES, changes.PULSE)
        }
        self._beat(here, beats.get(here))
        if not self._caches.are_used():
            return
        self._caches.begin()
        for name in sorted(connection.replication.keys() - {here}):
            if name in beats:
                self._follow(name, beats[name], time.monotonic())

    def _beat(self, here: str, beat: int | None) -> None:
        """Let the pulse go on, unless another server has done so."""
        if beat == self._own:
            now = clock.to_micros(clock.utcnow())
            beat = max(now, (beat or 0) + 1)
            self._db.run(changes.BEAT, datacenter=here, beat=beat)
        if beat is not None:
            changes.heard(beat)
        self._own = beat

    def _follow(self, name: str, beat: int, now: float) -> None:
        mark = self._caches.mark(name)
        origin = self._origins.get(name)
        if origin is None:
            origin = _Origin(name, beat, now)
            missed = mark is None or beat - mark.beat > SILENT_AFTER * _SECOND
        else:
            silent = now - origin.heard_at > SILENT_AFTER
            missed = silent and beat != origin.beat
        if missed:
            self._after_gap(origin, beat, now)
        # From here on a look that fails has lost nothing.
        self._origins[name] = origin
        if beat != origin.beat:
            origin.beat, origin.heard_at = beat, now
        new = self._unseen(origin)
        done = mark.done if mark else frozenset()
        origin.waiting += [(each, 0) for each in new if each['id'] not in done]
        self._take(origin)
        ids = done.union(each['id'] for each in new)
        ids -= {entry['id'] for entry, _ in origin.waiting}
        last = {each for each in ids if not _is_before(each, beat - _OVERLAP)}
        self._caches.set_mark(name, Mark(beat, frozenset(last)))
        if any(_is_before(each['id'], beat - _OVERLAP) for each in new):
            origin.late_at = now
        elif now - origin.late_at > _QUIET:
            origin.gap = None

    def _after_gap(self, origin: _Origin, beat: int, now: float) -> None:
        begin = min(origin.beat, beat - _FAR)
        origin.gap = max(begin, beat - _LONGEST_GAP) - _OVERLAP
        origin.looks, origin.late_at = 0, now
        metrics.count(metrics.CACHES_DROPPED)
        self._caches.drop_all()

    def _unseen(self, origin: _Origin) -> list[Entry]:
        """Read on in a log."""
        since = origin.since()
        hours = changes.hours(since, origin.beat + _OVERLAP)
        found = self._db.many(
            changes.SINCE,
            changes.ENTRY,
            (
                {
                    'datacenter': origin.name,
                    'hour': hour,
                    'since': changes.first_id(since),
                }
                for hour in hours
            ),
        )
        return origin.unseen(entry for entries in found for entry in entries)

    def _take(self, origin: _Origin) -> None:
        """Make changes readable here, and drop what is remembered."""
        by_table = collections.defaultdict(list)
        for entry, tries in origin.waiting:
            by_table[entry['table_name']].append((entry, tries))
        left = []
        with deadline.within(_PATIENCE):
            for table, told in by_table.items():
                try:
                    self._fetch(table, [entry['key'] for entry, _ in told])
                except errors.StoreUnavailable:
                    left += [
                        (entry, tries + 1)
                        for entry, tries in told
                        if tries < _TRIES
                    ]
        # Of what cannot be read here yet, too: what is remembered meanwhile
        # is dropped again.
        if by_table:
            self._caches.drop(by_table.keys())
        origin.waiting = left
        for table in by_table:
            metrics.count(metrics.CHANGES_FOLLOWED, table)

    def _fetch(self, table: str, keys: list[changes.Key]) -> None:
        fetch = changes.FETCH.get(table)
        if fetch is not None:  # else this process does not use the table
            fetch(self._db, keys)


class _Only:
    """The sessions of a store with one connection, which is never replaced."""

    def __init__(self, sessions: Sessions, connection: Connection) -> None:
        self._sessions = sessions
        self._connection = connection

    def get(self) -> Connection:
        return self._connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sessions, name)


def start(db: Store, connection: Connection, caches: Caches) -> None:
    """Follow the others in a thread, for as long as a connection is open.

    Does nothing with one datacenter.
    """
    if not changes.are_told(connection):
        return
    own = db.for_helpers()
    own.sessions = _Only(db.sessions, connection)  # type: ignore[assignment]
    threading.Thread(
        target=_run,
        args=(Follower(own, caches), connection),
        name='cassandra follow',
        daemon=True,
    ).start()


def _run(follower: Follower, connection: Connection) -> None:
    pause = threading.Event()
    failed = False
    while not connection.cluster.is_shutdown:
        try:
            follower.look()
            failed = False
        except errors.StoreUnavailable:
            pass  # the log tells of it already
        except Exception:
            # It must go on: else what ends elsewhere would go on here.
            if not failed and not connection.cluster.is_shutdown:
                LOG.exception('Changes of other regions are not followed.')
            failed = True
        pause.wait(EVERY)


def _is_before(entry_id: uuid.UUID, time: int) -> bool:
    return clock.micros_of(entry_id) < time
