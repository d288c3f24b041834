# SPDX-License-Identifier: Apache-2.0
"""Follow the changes of other datacenters.

A thread of each server looks once a second:

1. It reads the pulses.  Each datacenter has one, which goes on as long as one
   of its servers runs, and says how far the log can have been written.
2. It reads the entries of the others' logs since a moment before the pulse up
   to which it has read, and all of the last minutes now and then: a write can
   be late.
3. It makes sure that what they tell of can be read here.
   What came late may need more (:data:`.changes.LATE`), and is looked after
   where nothing is remembered, too.
4. It drops what Keystone's caches remember of it.

A pulse that stood still for :data:`SILENT_AFTER`, or has jumped by as much,
means that something may have been missed: all is dropped, and the gap is read
again and again until its entries have expired.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import threading
import time
import uuid
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any

from oslo_log import log

from keystone_cassandra_token.db import (
    changes,
    clock,
    deadline,
    errors,
    metrics,
    servers,
)
from keystone_cassandra_token.db.caches import Caches, Mark, NoCaches
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.outage import Unnoted
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

#: Seconds between two looks.
EVERY = 1.0
#: Seconds without a beat after which something may have been missed.
SILENT_AFTER = 5.0

_SECOND = 10**6  # in microseconds
_SILENT = int(SILENT_AFTER * _SECOND)
#: How far before the last pulse that was read on to a look begins.
_OVERLAP = 3 * _SECOND
#: How far back one look in a minute begins.
_FAR, _FAR_EVERY = 600 * _SECOND, 60 * _SECOND
#: How often a gap is looked through: at first, and later with each quarter
#: of the time for which nothing has come late.
_GAP_EVERY, _GAP_EVERY_PART = 5 * _SECOND, 4
_TTL = changes.TTL * _SECOND
#: Seconds for which one look waits for changes, keys that are fetched at
#: once, and how often that is tried, each time after twice as many looks.
_PATIENCE, _AT_ONCE, _TRIES = 2.0, 100, 12
#: What is read so many microseconds after it was written came late.
LATE = 5 * _SECOND

Entry = dict[str, Any]


@dataclasses.dataclass
class _Waiting:
    """An entry for which something must yet be dropped.

    :ivar tries: how often its change could not be made readable here.
    :ivar looks: how many looks it is left before the next try.
    :ivar late: whether it came late.
    """

    entry: Entry
    late: bool = False
    tries: int = 0
    looks: int = 0


@dataclasses.dataclass
class _Origin:
    """What is known of another datacenter; times are those of its pulse.

    :ivar beat: its last pulse.
    :ivar heard_at: when that came, as ``time.monotonic()`` counts.
    :ivar read_to: its pulse when its log was read last.
    :ivar gap: where a gap began that may still be filled; None without one.
    :ivar gap_end: where it ended.
    :ivar late_at: when something last came late.
    :ivar far_at: when a look last began far back; ``gap_at`` in the gap.
    :ivar last_mark: the mark that was set last.
    :ivar seen: the entries that were read.
    """

    beat: int
    heard_at: float
    read_to: int
    gap: int | None = None
    gap_end: int = 0
    late_at: int = 0
    far_at: int = 0
    gap_at: int = 0
    last_mark: Mark | None = None
    seen: set[uuid.UUID] = dataclasses.field(default_factory=set)
    waiting: list[_Waiting] = dataclasses.field(default_factory=list)

    def missed(self, beat: int, mark: Mark | None, now: float) -> bool:
        """Return whether something may have been missed before a beat."""
        if beat - self.read_to > _SILENT:
            return True  # also of one whose clock, or this one's, has jumped
        if beat != self.beat and now - self.heard_at > SILENT_AFTER:
            return True
        # A cache that was away can have come back with what was dropped.
        return self.last_mark is not None and (
            mark is None or self.last_mark.beat - mark.beat > _SILENT
        )

    def begin_gap(self, gap: int, beat: int) -> None:
        """Note that what is told of from a time on may yet come."""
        self.gap = gap if self.gap is None else min(self.gap, gap)
        self.gap_end = self.late_at = beat
        self.gap_at = 0

    def since(self) -> int:
        """Return from when on the next look reads."""
        since = min(self.read_to, self.beat) - _OVERLAP
        if self.beat - self.far_at >= _FAR_EVERY:
            since = min(since, self.beat - _FAR)
        if self.gap is not None:
            quiet = (self.beat - self.late_at) // _GAP_EVERY_PART
            if self.beat - self.gap_at >= max(_GAP_EVERY, quiet):
                since = min(since, self.gap)
        return max(since, self.beat - _TTL)

    def has_read(self, since: int, new: Iterable[uuid.UUID]) -> None:
        """Note that a log was read.

        :param since: from :meth:`since`.
        :param new: the entries after it that were not read before.
        """
        if since <= self.beat - _FAR:  # now and then
            first = self.beat - _FAR if self.gap is None else self.gap
            self.seen = {x for x in self.seen if not _is_before(x, first)}
            self.far_at = self.beat
        if self.gap is not None:
            if since <= max(self.gap, self.beat - _TTL):
                self.gap_at = self.beat
            if self.beat - self.gap_end > _TTL:
                self.gap = None  # all of its entries have expired
        self.seen.update(new)
        self.read_to = self.beat


class Follower:
    """Follows the changes of the others for one process.

    :param db: a store.
    :param caches: what is dropped from.
    """

    def __init__(self, db: Store, caches: Caches) -> None:
        self._db = db
        self._given = self._caches = caches
        self._none = NoCaches()
        self._origins: dict[str, _Origin] = {}
        self._own: int | None = None

    def look(self) -> None:
        """Look once.

        :raises Exception: what the first datacenter failed with that could
            not be followed; the others were.
        """
        connection = self._db.sessions.get()
        here = connection.local_dc
        beats: dict[str, int] = {
            row['datacenter']: row['beat']
            for row in self._db.rows(changes.PULSES, changes.PULSE)
        }
        failures: list[Exception] = []
        with _collecting(failures):
            self._beat(here, beats.get(here))
        with _collecting(failures):
            changes.tell_rest(self._db)
        if self._db.conf.cassandra.follow_changes:
            used = self._given.are_used()
            self._caches = self._given if used else self._none
            self._caches.begin()
            for name in sorted(changes.datacenters(connection) - {here}):
                if name in beats:
                    with _collecting(failures):
                        self._follow(name, beats[name], time.monotonic())
        if failures:
            raise failures[0]

    def _beat(self, here: str, beat: int | None) -> None:
        """Let the pulse go on, unless another server has done so."""
        if beat is not None:
            changes.heard(beat)
        if beat == self._own:
            now = clock.to_micros(clock.utcnow())
            beat = max(now, (beat or 0) + 1)
            self._db.run(changes.BEAT, datacenter=here, beat=beat)
            changes.heard(beat)
        self._own = beat

    def _follow(self, name: str, beat: int, now: float) -> None:
        mark = self._caches.mark(name)
        origin = self._origins.get(name)
        first = origin is None
        if origin is None:
            # Without a mark all may have been missed.
            read_to = mark.beat if mark else beat - _FAR - _SECOND
            origin = _Origin(beat, now, read_to)
            if mark and mark.gap is not None:
                origin.begin_gap(mark.gap, beat)
        if origin.missed(beat, mark, now):
            begin = max(min(origin.read_to, beat - _FAR), beat - _TTL)
            origin.begin_gap(begin - _OVERLAP, beat)
            metrics.count(metrics.CACHES_DROPPED)
            self._caches.drop_all()
        # From here on a look that fails has lost nothing.
        self._origins[name] = origin
        if beat != origin.beat:
            origin.beat, origin.heard_at = beat, now
        done = mark.done if mark else frozenset()
        since = origin.since()
        new = self._unseen(origin, name, since)
        if any(
            _is_before(each, origin.read_to - _OVERLAP)
            for ids in new.values()
            for each in ids
        ):
            origin.late_at = beat
        # Where others have been before this process, they have seen it.
        followed = mark.beat - _OVERLAP if first and mark else 0
        # A pulse that stands still does not tell how old an entry is.
        silent = now - origin.heard_at > SILENT_AFTER
        origin.waiting += (
            _Waiting(
                each,
                late=(silent or _is_before(each['id'], beat - LATE))
                and not _is_before(each['id'], followed),
            )
            for each in self._entries(name, new, done)
        )
        origin.has_read(since, itertools.chain.from_iterable(new.values()))
        self._take(origin)
        ids = done.union(*new.values())
        ids -= {each.entry['id'] for each in origin.waiting}
        last = {each for each in ids if not _is_before(each, beat - _OVERLAP)}
        origin.last_mark = Mark(beat, frozenset(last), origin.gap)
        self._caches.set_mark(name, origin.last_mark)

    def _unseen(
        self, origin: _Origin, name: str, since: int
    ) -> dict[int, list[uuid.UUID]]:
        """Read on in a log; return the entries that are new, by hour."""
        # A server whose clock is ahead writes into the next hour.
        hours = changes.hours(since, origin.beat + _FAR)
        first = changes.first_id(since)
        found = self._db.many(
            changes.IDS_SINCE,
            changes.ID,
            (
                {'datacenter': name, 'hour': hour, 'since': first}
                for hour in hours
            ),
        )
        return {
            hour: [x['id'] for x in rows if x['id'] not in origin.seen]
            for hour, rows in zip(hours, found, strict=True)
        }

    def _entries(
        self,
        name: str,
        ids: Mapping[int, Iterable[uuid.UUID]],
        done: Collection[uuid.UUID],
    ) -> Iterator[Entry]:
        """Return entries, but for those that others have done."""
        keys = []
        for hour, several in ids.items():
            left = [each for each in several if each not in done]
            keys += [
                {
                    'datacenter': name,
                    'hour': hour,
                    'ids': left[begin : begin + _AT_ONCE],
                }
                for begin in range(0, len(left), _AT_ONCE)
            ]
        found = self._db.many(changes.SOME, changes.ENTRY, keys)
        return itertools.chain.from_iterable(found)

    def _take(self, origin: _Origin) -> None:
        """Make changes readable here, and drop what is remembered."""
        due: dict[str, list[_Waiting]] = collections.defaultdict(list)
        left = []
        used = self._caches.are_used()
        for each in origin.waiting:
            if not used and each.entry['table_name'] not in changes.LATE:
                continue  # nothing has to be dropped
            if each.looks:
                left.append(dataclasses.replace(each, looks=each.looks - 1))
            else:
                due[each.entry['table_name']].append(each)
        told: dict[str, list[changes.Key]] = {}
        end = time.monotonic() + _PATIENCE
        for table, waiting in due.items():
            while waiting and time.monotonic() < end:
                some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
                keys = [each.entry['key'] for each in some]
                # Of what cannot be read here yet, too: what is remembered
                # meanwhile is dropped again.
                told.setdefault(table, []).extend(keys)
                late = [each.entry['key'] for each in some if each.late]
                if not self._fetch(table, keys, late, end):
                    left += [
                        _Waiting(
                            each.entry,
                            True,  # once it can be read
                            each.tries + 1,
                            1 << each.tries,
                        )
                        for each in some
                        if each.tries < _TRIES
                    ]
            left += waiting
        if told:
            self._caches.drop(told)
        origin.waiting = left
        for table in told:
            metrics.count(metrics.CHANGES_FOLLOWED, table)

    def _fetch(
        self,
        table: str,
        keys: list[changes.Key],
        late: list[changes.Key],
        end: float,
    ) -> bool:
        """Return whether changes could be made readable here.

        :param late: those of the keys whose changes came late.
        """
        fetch = changes.FETCH.get(table)
        if fetch is None:  # this process does not use the table
            return True
        after = changes.LATE.get(table)
        try:
            with deadline.until(end):
                fetch(self._db, keys)
                if late and after is not None:
                    after(self._db, late)
        except errors.StoreUnavailable:
            return False
        except Exception:
            # Of another version, perhaps; what is remembered must go.
            LOG.exception('A change in table %s cannot be followed.', table)
        return True


@contextlib.contextmanager
def _collecting(failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        failures.append(failure)


class _Only:
    """The sessions of a store with one connection, which is never replaced.

    What the follower cannot do is no outage of the servers, and says nothing
    of what clients can do.
    """

    def __init__(self, sessions: Sessions, connection: Connection) -> None:
        self._sessions = sessions
        self._connection = connection
        self.outage = Unnoted()

    def get(self) -> Connection:
        return self._connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sessions, name)


def start(
    db: Store,
    connection: Connection,
    caches: Caches,
    settings: Callable[[], Mapping[str, str]],
) -> None:
    """Follow the others in a thread, for as long as a connection is open.

    It also says now and then what this server's settings are.

    It begins once the process answers requests of clients: commands follow
    nobody, and are no pulse of their region.
    """
    own = db.for_helpers()
    own.sessions = _Only(db.sessions, connection)  # type: ignore[assignment]
    threading.Thread(
        target=_run,
        args=(Follower(own, caches), own, connection, settings),
        name='cassandra follow',
        daemon=True,
    ).start()


def _run(
    follower: Follower,
    db: Store,
    connection: Connection,
    settings: Callable[[], Mapping[str, str]],
) -> None:
    pause = threading.Event()
    failed = False
    told_at = -servers.EVERY
    while not connection.cluster.is_shutdown:
        if deadline.serving.is_set():
            try:
                if time.monotonic() - told_at >= servers.EVERY:
                    told_at = time.monotonic()
                    servers.tell(db, settings())
                if changes.are_told(connection):
                    follower.look()
                failed = False
            except errors.StoreUnavailable as failure:
                LOG.debug('Other regions not followed: %s', failure.reason)
            except Exception:
                # It must go on: else what ends elsewhere would go on here.
                if not failed and not connection.cluster.is_shutdown:
                    LOG.exception('Changes of other regions not followed.')
                failed = True
        pause.wait(EVERY)


def _is_before(entry_id: uuid.UUID, time: int) -> bool:
    return clock.micros_of(entry_id) < time
