# SPDX-License-Identifier: Apache-2.0
"""A follower sees each change of another datacenter, and drops it once.

Over a store that is two dictionaries, at times that the tests choose.
"""

from __future__ import annotations

import random
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cassandra.util
import pytest

from keystone_cassandra_token.db import (
    changes,
    clock,
    deadline,
    errors,
    following,
)
from keystone_cassandra_token.db.caches import Mark
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.following import Follower

HERE, THERE = 'here', 'there'
TABLE = 'a_table'
#: Microseconds in a second, and the time at which tests begin.
SECOND = 10**6
BEGIN = 1_800_000_000 * SECOND
#: Longer than a pulse may stand still.
LONG = 2 * following.SILENT_AFTER
#: Looks after which all that has arrived was read.
MANY = 70


class World:
    """The two tables as this datacenter has them, and what is remembered.

    :ivar now: seconds since the beginning.
    :ivar beats: the pulses.
    :ivar told: what happened, in order: fetched and dropped.
    :ivar away: whether changes cannot be made readable.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.beats: dict[str, int] = {}
        self.entries: dict[uuid.UUID, dict[str, Any]] = {}
        self.marks: dict[str, Mark] = {}
        self.told: list[tuple[str, Any]] = []
        self.away = False
        self.used = True
        self.sent: list[dict[str, Any]] = []
        self.conf = types.SimpleNamespace(
            cassandra=types.SimpleNamespace(
                request_deadline=5.0, follow_changes=True
            )
        )
        self.sessions = types.SimpleNamespace(
            get=lambda: types.SimpleNamespace(
                local_dc=HERE, replication={HERE: 3, THERE: 3}
            )
        )

    # -- what happens there

    def beat(self) -> None:
        self.beats[THERE] = BEGIN + int(self.now * SECOND)

    def change(self, ago: float = 0, table: str = TABLE) -> str:
        """Let an entry arrive that was written some seconds ago."""
        at = BEGIN / SECOND + self.now - ago
        entry_id = cassandra.util.uuid_from_time(at)
        self.entries[entry_id] = {
            'datacenter': THERE,
            'hour': clock.micros_of(entry_id) // (3600 * SECOND),
            'id': entry_id,
            'table_name': table,
            'key': {'id': entry_id.hex},
        }
        return entry_id.hex

    # -- the store

    def rows(self, statement: Statement, row: object) -> list[dict[str, Any]]:
        assert statement is changes.PULSES
        return [
            {'datacenter': name, 'beat': beat}
            for name, beat in self.beats.items()
        ]

    def many(
        self, statement: Statement, row: object, keys: Any
    ) -> list[list[dict[str, Any]]]:
        if statement is changes.IDS_SINCE:
            return [
                [
                    {'id': entry['id']}
                    for entry in self._of(key)
                    if entry['id'].time > key['since'].time
                ]
                for key in keys
            ]
        assert statement is changes.SOME
        return [
            [entry for entry in self._of(key) if entry['id'] in key['ids']]
            for key in keys
        ]

    def _of(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            entry
            for entry in self.entries.values()
            if entry['datacenter'] == key['datacenter']
            and entry['hour'] == key['hour']
        ]

    def run(self, statement: Statement, **binds: Any) -> None:
        if statement is changes.ADD:
            self.sent.append(binds)
        else:
            assert statement is changes.BEAT
            self.beats[binds['datacenter']] = binds['beat']

    # -- the caches

    def are_used(self) -> bool:
        return self.used

    def begin(self) -> None:
        pass

    def mark(self, datacenter: str) -> Mark | None:
        return self.marks.get(datacenter)

    def set_mark(self, datacenter: str, mark: Mark) -> None:
        self.marks[datacenter] = mark

    def drop(self, told: Mapping[str, Sequence[Any]]) -> None:
        self.told.append(('dropped', set(told)))

    def drop_all(self) -> None:
        self.told.append(('dropped', 'all'))

    def fetch(self, _: object, keys: Sequence[Mapping[str, Any]]) -> None:
        if self.away:
            raise errors.StoreUnavailable('A region is away.')
        self.told += [('fetched', key['id']) for key in keys]

    def what_was_told(self) -> list[tuple[str, Any]]:
        told, self.told = self.told, []
        return told


@pytest.fixture(autouse=True)
def no_pulse_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes.latest, 'beat', 0)
    monkeypatch.setattr(changes, 'datacenters', lambda _: {HERE, THERE})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    fake = types.SimpleNamespace(monotonic=lambda: world.now)
    monkeypatch.setattr(following, 'time', fake)
    monkeypatch.setattr(
        clock,
        'utcnow',
        lambda: clock.from_micros(BEGIN + int(world.now * SECOND)),
    )
    monkeypatch.setitem(changes.FETCH, TABLE, world.fetch)
    world.beat()
    return world


@pytest.fixture
def follower(world: World) -> Follower:
    """One that has begun, and has dropped all."""
    follower = Follower(world, world)  # type: ignore[arg-type]
    look(world, follower, 2 * MANY)
    world.what_was_told()
    return follower


def look(world: World, follower: Follower, times: int = 1) -> None:
    """Look, once a second, while all goes well there."""
    for _ in range(times):
        world.now += following.EVERY
        world.beat()
        follower.look()


def test_a_change_is_fetched_and_then_dropped_once(
    world: World, follower: Follower
) -> None:
    one, two = world.change(), world.change(table=changes.REVOCATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(changes.FETCH, changes.REVOCATION, world.fetch)
        look(world, follower)
    *fetched, dropped = world.what_was_told()
    assert sorted(fetched) == sorted([('fetched', one), ('fetched', two)])
    assert dropped == ('dropped', {TABLE, changes.REVOCATION})
    look(world, follower, MANY)
    assert world.what_was_told() == []


def test_a_table_that_this_process_does_not_use_is_dropped(
    world: World, follower: Follower
) -> None:
    world.change(table='unknown')
    look(world, follower)
    assert world.what_was_told() == [('dropped', {'unknown'})]


@pytest.fixture
def late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, ...]]:
    """The keys of what is taken for late."""
    found: list[tuple[str, ...]] = []

    def comes(_: object, keys: Sequence[Mapping[str, Any]]) -> None:
        found.append(tuple(key['id'] for key in keys))

    monkeypatch.setitem(changes.LATE, TABLE, comes)
    return found


@pytest.mark.parametrize('used', [True, False])
def test_what_comes_late_is_told(
    world: World, follower: Follower, late: list[tuple[str, ...]], used: bool
) -> None:
    """Also where nothing is remembered."""
    world.used = used
    world.change()
    look(world, follower, 2)
    assert late == []
    one = world.change(ago=following.LATE / SECOND + 1)
    look(world, follower, MANY)
    assert late == [(one,)]


def test_it_is_late_for_one_that_begins_where_nobody_was(
    world: World, late: list[tuple[str, ...]]
) -> None:
    one = world.change(ago=100)
    Follower(world, world).look()  # type: ignore[arg-type]
    assert late == [(one,)]


def test_it_is_not_where_others_were(
    world: World, follower: Follower, late: list[tuple[str, ...]]
) -> None:
    world.change()
    look(world, follower, 30)
    Follower(world, world).look()  # type: ignore[arg-type]
    assert late == []


def test_it_is_late_at_the_next_try(
    world: World, follower: Follower, late: list[tuple[str, ...]]
) -> None:
    world.away = True
    one = world.change(ago=100)
    look(world, follower)
    world.away = False
    look(world, follower, MANY)
    assert late == [(one,)]


def test_it_is_late_where_only_the_next_try_can_read_it(
    world: World, follower: Follower, late: list[tuple[str, ...]]
) -> None:
    world.away = True
    one = world.change()
    look(world, follower)
    world.away = False
    look(world, follower, MANY)
    assert late == [(one,)]


def test_what_comes_before_the_pulse_goes_on_is_late(
    world: World, follower: Follower, late: list[tuple[str, ...]]
) -> None:
    """It is younger than the last pulse that was heard."""
    one = world.change(ago=-1)
    hidden = world.entries.copy()
    world.entries.clear()
    world.now += LONG
    world.entries.update(hidden)
    follower.look()
    look(world, follower, MANY)
    assert late == [(one,)]


def test_what_others_may_take_for_late_is_fetched_without_caches(
    world: World, follower: Follower, late: list[tuple[str, ...]]
) -> None:
    world.used = False
    look(world, follower)
    world.what_was_told()
    one = world.change()
    world.change(table='unknown')
    look(world, follower)
    assert world.what_was_told() == [('fetched', one)]
    assert late == []


@pytest.mark.parametrize('late', [1, 10, 500])
def test_what_comes_late_is_followed(
    world: World, follower: Follower, late: float
) -> None:
    one = world.change(ago=late)
    look(world, follower, MANY)
    assert world.what_was_told() == [
        ('fetched', one),
        ('dropped', {TABLE}),
    ]


def test_processes_that_share_a_cache_drop_once(
    world: World, follower: Follower
) -> None:
    other = Follower(world, world)  # type: ignore[arg-type]
    other.look()
    # It has begun where the first one is.
    assert world.what_was_told() == []
    world.change()
    for _ in range(MANY):
        look(world, follower)
        other.look()
    assert [kind for kind, _ in world.what_was_told()] == [
        'fetched',
        'dropped',
    ]


def test_one_that_begins_drops_all(world: World) -> None:
    first = Follower(world, world)  # type: ignore[arg-type]
    first.look()
    assert world.what_was_told() == [('dropped', 'all')]
    world.now += LONG
    world.beat()
    # Nobody has followed since.
    Follower(world, world).look()  # type: ignore[arg-type]
    assert world.what_was_told() == [('dropped', 'all')]


def test_one_that_begins_goes_on_where_another_was(
    world: World, follower: Follower
) -> None:
    world.away = True
    waiting = world.change()
    look(world, follower)
    late = world.change(ago=100)
    world.away = False
    world.what_was_told()
    Follower(world, world).look()  # type: ignore[arg-type]
    *fetched, dropped = world.what_was_told()
    assert sorted(fetched) == sorted([('fetched', waiting), ('fetched', late)])
    assert dropped == ('dropped', {TABLE})


def test_after_a_gap_all_is_dropped_and_what_comes_late_followed(
    world: World, follower: Follower
) -> None:
    began = world.now + 10
    world.now += 600
    follower.look()
    assert world.what_was_told() == []  # nothing is heard yet
    look(world, follower)
    assert world.what_was_told() == [('dropped', 'all')]
    late = []
    # The last one comes an hour after the gap.
    for quiet in 30, 100, 3600:
        look(world, follower, quiet)
        late.append(world.change(ago=world.now - began))
        look(world, follower, 10 + quiet // 3)
    assert world.what_was_told() == [
        told
        for each in late
        for told in (('fetched', each), ('dropped', {TABLE}))
    ]


def test_what_cannot_be_read_yet_is_dropped_until_it_can(
    world: World, follower: Follower
) -> None:
    world.away = True
    one = world.change()
    look(world, follower, 10)
    # At once, and with one and with two looks between.
    assert world.what_was_told() == 3 * [('dropped', {TABLE})]
    world.away = False
    look(world, follower, 10)
    assert world.what_was_told() == [('fetched', one), ('dropped', {TABLE})]


def test_what_cannot_be_followed_keeps_nothing_else_from_it(
    world: World, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of another version, for instance."""
    monkeypatch.setitem(changes.FETCH, 'odd', lambda db, keys: keys[0]['no'])
    world.change(table='odd')
    one = world.change()
    look(world, follower)
    *_, dropped = world.what_was_told()
    assert dropped == ('dropped', {'odd', TABLE})
    two = world.change()
    look(world, follower)
    assert world.what_was_told() == [('fetched', two), ('dropped', {TABLE})]
    assert one != two


def test_many_changes_are_fetched_some_in_each_look(
    world: World, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {world.change() for _ in range(250)}

    def slow(db: object, keys: Sequence[Mapping[str, Any]]) -> None:
        world.fetch(db, keys)
        world.now += 1.5

    monkeypatch.setitem(changes.FETCH, TABLE, slow)
    look(world, follower)
    told = world.what_was_told()
    assert 0 < len({what for kind, what in told if kind == 'fetched'}) < 250
    look(world, follower)
    told += world.what_was_told()
    fetched = [what for kind, what in told if kind == 'fetched']
    assert sorted(fetched) == sorted(wanted)
    assert told[-1] == ('dropped', {TABLE})


def test_a_cache_that_was_away_is_dropped(
    world: World, follower: Follower
) -> None:
    """It can have come back with what was dropped meanwhile."""
    before = world.marks[THERE]
    look(world, follower, 10)
    world.marks[THERE] = before
    look(world, follower)
    assert world.what_was_told() == [('dropped', 'all')]
    del world.marks[THERE]
    look(world, follower)
    assert world.what_was_told() == [('dropped', 'all')]


def test_looks_that_are_far_apart_miss_nothing(
    world: World, follower: Follower
) -> None:
    one = world.change()
    world.now += following.SILENT_AFTER - 0.5
    world.beat()
    follower.look()
    assert world.what_was_told() == [('fetched', one), ('dropped', {TABLE})]


def test_a_pulse_that_jumps_is_a_gap(world: World, follower: Follower) -> None:
    """Of a clock that is ahead, or to a process that was stopped."""
    one = world.change()
    world.beats[THERE] += 900 * SECOND
    follower.look()
    dropped_all, *rest = world.what_was_told()
    assert dropped_all == ('dropped', 'all')
    assert rest == [('fetched', one), ('dropped', {TABLE})]


def test_without_its_own_pulse_it_follows(
    world: World, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise errors.StoreUnavailable('It may not write.')

    monkeypatch.setattr(world, 'run', run)
    one = world.change()
    with pytest.raises(errors.StoreUnavailable):
        look(world, follower)
    assert world.what_was_told() == [('fetched', one), ('dropped', {TABLE})]


def test_a_cache_that_fails_loses_nothing(
    world: World, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.change()
    for method in 'drop', 'mark', 'set_mark':
        with monkeypatch.context() as patch:
            patch.setattr(world, method, refuse)
            with pytest.raises(OSError, match='away'):
                look(world, follower)
    look(world, follower)
    *_, fetched, dropped = world.what_was_told()
    assert (fetched, dropped) == (('fetched', one), ('dropped', {TABLE}))


def test_a_cache_that_fails_at_first_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(world, world)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(world, 'drop_all', refuse)
        with pytest.raises(OSError, match='away'):
            follower.look()
    follower.look()
    assert world.what_was_told() == [('dropped', 'all')]


def refuse(*_: object) -> None:
    raise OSError('The cache is away.')


def test_what_can_never_be_read_is_given_up(
    world: World, follower: Follower
) -> None:
    world.away = True
    world.change()
    look(world, follower, 10_000)
    told = world.what_was_told()
    assert 20 > len(told) > 10


def test_where_it_is_switched_off_there_is_the_pulse_alone(
    world: World,
) -> None:
    world.conf.cassandra.follow_changes = False
    follower = Follower(world, world)  # type: ignore[arg-type]
    world.change()
    follower.look()
    assert world.beats[HERE] == BEGIN
    assert not world.told
    assert not world.marks


def test_the_pulse_goes_on_unless_another_lets_it(world: World) -> None:
    follower = Follower(world, world)  # type: ignore[arg-type]
    follower.look()
    look(world, follower)
    assert world.beats[HERE] == BEGIN + SECOND
    world.beats[HERE] = other = BEGIN + 10 * SECOND
    look(world, follower)
    assert world.beats[HERE] == other
    # Not back, though the clock of that server was ahead.
    look(world, follower)
    assert world.beats[HERE] == other + 1


def test_a_clock_that_is_behind_hides_nothing() -> None:
    beat = clock.to_micros(clock.utcnow()) + 3600 * SECOND
    sent: list[Mapping[str, Any]] = []
    db: Any = types.SimpleNamespace(
        conf=types.SimpleNamespace(
            cassandra=types.SimpleNamespace(
                request_deadline=5.0, follow_changes=True
            )
        ),
        sessions=types.SimpleNamespace(
            get=lambda: types.SimpleNamespace(
                local_dc=HERE, replication={HERE: 1, THERE: 1}
            )
        ),
        run=lambda statement, **binds: sent.append(binds),
    )
    changes.heard(beat)
    changes.tell(db, TABLE, {'id': '1'})
    (entry,) = sent
    assert clock.micros_of(entry['id']) >= beat - SECOND
    assert entry['hour'] in changes.hours(beat, beat + SECOND)


def test_what_could_not_be_told_is_told_later(
    world: World, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise errors.StoreUnavailable('Too slow.')

    db: Any = world
    with monkeypatch.context() as patch:
        patch.setattr(world, 'run', run)
        changes.tell(db, TABLE, {'id': '1'})
        changes.tell(db, TABLE, {'id': '2'})
        with pytest.raises(errors.StoreUnavailable):
            look(world, follower)
    look(world, follower, 2)
    told = [changes.ENTRY.load(each) for each in world.sent]
    assert [each['key'] for each in told] == [{'id': '1'}, {'id': '2'}]


def test_it_is_told_though_the_request_has_no_time_left(world: World) -> None:
    left: list[float | None] = []

    def run(*_: object, **__: object) -> None:
        left.append(deadline.remaining(5.0))

    db: Any = types.SimpleNamespace(
        conf=world.conf, sessions=world.sessions, run=run
    )
    for seconds in 0.0, 4.0:
        with deadline.within(seconds):
            changes.tell(db, TABLE, {'id': '1'})
    assert all(each is not None for each in left)
    none, most = (each or 0 for each in left)
    assert 0 < none < 1 < most


@pytest.mark.parametrize('seed', range(40))
def test_nothing_is_missed(world: World, seed: int) -> None:
    """Entries that are late, pulses that stand still, servers that restart.

    Each entry that has arrived is fetched, and dropped after that.
    """
    chance = random.Random(seed)
    wanted: set[str] = set()
    followers: list[Follower] = []

    def restart() -> None:
        followers[:] = [Follower(world, world)]  # type: ignore[arg-type]

    def stall() -> None:
        world.now += chance.uniform(0, 3 * LONG)

    def look_some() -> None:
        look(world, followers[0], chance.randrange(1, 8))

    def look_in_vain() -> None:
        world.away = True
        look_some()
        world.away = False

    happenings: list[Callable[[], object]] = [
        *3 * [lambda: wanted.add(world.change(ago=chance.uniform(0, 2)))],
        *3 * [lambda: wanted.add(world.change(ago=chance.uniform(0, 400)))],
        *3 * [look_some],
        *2 * [stall],
        lambda: followers[0].look(),
        look_in_vain,
        restart,
    ]
    restart()
    for _ in range(300):
        chance.choice(happenings)()
    look(world, followers[0], 2 * MANY)
    assert wanted <= set(ended(world.told))


def ended(told: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Yield what was dropped after it had been fetched, or with all."""
    fetched: list[str] = []
    for kind, what in told:
        if kind == 'fetched':
            fetched.append(what)
        else:
            yield from fetched
            fetched = []
