# SPDX-License-Identifier: Apache-2.0
"""When other datacenters are asked, and when they are left alone."""

from __future__ import annotations

import threading
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystone_cassandra_token.db import (
    clock,
    deadline,
    errors,
    escalation,
    metrics,
    remembered,
)
from keystone_cassandra_token.db.connection import Place
from keystone_cassandra_token.db.escalation import (
    Bucket,
    Escalation,
    Missing,
    There,
)

PATIENCE = 30


class Clock:
    """A clock that goes on when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def now() -> Clock:
    return Clock()


class TestBucket:
    def test_twice_as_many_at_once(self, now: Clock) -> None:
        bucket = Bucket(now)
        assert [bucket.take(10) for _ in range(30)] == (
            [True] * 20 + [False] * 10
        )

    def test_so_many_a_second(self, now: Clock) -> None:
        bucket = Bucket(now)
        while bucket.take(10):
            pass
        now.now += 0.5
        assert [bucket.take(10) for _ in range(6)] == [True] * 5 + [False]

    def test_once_in_ten_seconds(self, now: Clock) -> None:
        bucket = Bucket(now)
        assert bucket.take(0.1)
        assert not bucket.take(0.1)
        now.now += 10
        assert bucket.take(0.1)

    @given(
        rate=st.floats(0.1, 100),
        waits=st.lists(st.floats(0, 3), max_size=200),
    )
    def test_never_more_than_that(
        self, rate: float, waits: list[float]
    ) -> None:
        now = Clock()
        begin = now.now
        bucket = Bucket(now)
        taken = 0
        for wait in waits:
            now.now += wait
            taken += bucket.take(rate)
            passed = now.now - begin
            assert taken <= max(1, 2 * rate) + rate * passed + 1e-6


class TestMissing:
    def test_it_is_known_for_a_second(self, now: Clock) -> None:
        missing = Missing(now)
        missing.add(b'a')
        assert b'a' in missing
        assert b'b' not in missing
        now.now += escalation.MISSING_FOR
        assert b'a' not in missing
        missing.add(b'b')
        assert len(missing) == 1

    def test_it_is_bounded(
        self, now: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(escalation, 'MOST_MISSING', 3)
        missing = Missing(now)
        for key in (b'a', b'b', b'a', b'c', b'd'):
            missing.add(key)
        assert len(missing) == 3
        assert b'b' not in missing
        assert b'a' in missing


class Sessions:
    """Sessions of a store that is none."""

    def __init__(self) -> None:
        self.current: object | None = types.SimpleNamespace(
            prepare=lambda statement: None
        )
        self.gets = 0

    def get(self) -> object:
        self.gets += 1
        if self.current is None:
            raise errors.StoreUnavailable('no node')
        return self.current


class FakeStore:
    """A store that finds what it is told to."""

    def __init__(self, found: object = None) -> None:
        self.found = found
        self.sessions = Sessions()
        self.asked = 0
        self.is_closed = False

    def look(self) -> Any:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def close(self) -> None:
        self.is_closed = True


def look(store: Any) -> Any:
    return store.look()


AWAY = errors.StoreUnavailable('away')


def there(store: FakeStore, now: Clock, name: str = 'two') -> There:
    return There(store, Place(name, ('127.0.0.1',)), now)  # type: ignore[arg-type]


class TestBreaker:
    def test_it_is_left_alone_for_a_second(self, now: Clock) -> None:
        other = there(FakeStore(AWAY), now)
        assert other.may_be_asked()
        assert other.ask(look, 1e9) is escalation.FAILED
        assert not other.may_be_asked()
        now.now += escalation.HOLDS
        assert other.may_be_asked()

    def test_then_one_tries_it(self, now: Clock) -> None:
        other = there(FakeStore(AWAY), now)
        other.ask(look, 1e9)
        now.now += escalation.HOLDS
        assert [other.may_be_asked() for _ in range(3)] == [True, False, False]

    def test_after_a_success_all_ask(self, now: Clock) -> None:
        store = FakeStore(AWAY)
        other = there(store, now)
        other.ask(look, 1e9)
        now.now += escalation.HOLDS
        assert other.may_be_asked()
        store.found = 'it'
        assert other.ask(look, 1e9) == 'it'
        assert [other.may_be_asked() for _ in range(3)] == [True] * 3

    def test_a_session_is_waited_for_once(self, now: Clock) -> None:
        """Then it is opened in the background."""
        store = FakeStore(AWAY)
        store.sessions.current = None
        other = there(store, now)
        assert other.may_be_asked()
        other.ask(look, 1e9)
        for expected in (1, 2):
            now.now += escalation.HOLDS
            assert not other.may_be_asked()
            assert other.connecting is not None
            other.connecting.join(PATIENCE)
            assert store.sessions.gets == expected
        store.sessions.current = types.SimpleNamespace(
            prepare=lambda statement: None
        )
        now.now += escalation.HOLDS
        assert other.may_be_asked()

    def test_none_is_opened_once_it_is_closed(self, now: Clock) -> None:
        store = FakeStore()
        other = there(store, now)
        other.close()
        store.is_closed = False
        other.connect_soon()
        assert other.connecting is not None
        other.connecting.join(PATIENCE)
        assert store.is_closed

    def test_an_error_of_another_kind_is_raised(self, now: Clock) -> None:
        other = there(FakeStore(KeyError('x')), now)
        with pytest.raises(KeyError):
            other.ask(look, 1e9)

    def test_what_the_request_has_read_stays_remembered(
        self, now: Clock
    ) -> None:
        def forgetting(store: Any) -> Any:
            remembered.forget()
            return store.look()

        with remembered.within_request():
            reads = remembered.current()
            assert reads is not None
            reads.keep('a read', ['a row'])
            there(FakeStore(AWAY), now).ask(forgetting, 1e9)
            assert reads.get('a read') == ['a row']


class World:
    """A server whose keyspace has three datacenters; all is made up."""

    def __init__(self, conf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stores = {'three': FakeStore(), 'two': FakeStore()}
        connection = types.SimpleNamespace(local_dc='one')
        db = types.SimpleNamespace(
            conf=conf, sessions=types.SimpleNamespace(get=lambda: connection)
        )
        self.names = {'one', *self.stores}
        monkeypatch.setattr(
            escalation.changes, 'datacenters', lambda _: self.names
        )
        monkeypatch.setattr(
            escalation.elsewhere,
            'place_of',
            lambda _, name, single_reads: Place(name, ('127.0.0.1',), True),
        )
        monkeypatch.setattr(
            escalation.elsewhere,
            'store_in',
            lambda _, place: types.SimpleNamespace(
                for_helpers=lambda: self.stores[place.datacenter]
            ),
        )
        self.counted: list[str] = []
        monkeypatch.setattr(
            metrics, 'count', lambda metric, label: self.counted.append(label)
        )
        self.escalation = Escalation(db)  # type: ignore[arg-type]

    def ask(self, key: object = 'it', **more: Any) -> Any:
        return self.escalation.ask(key, look, **more)

    @property
    def asked(self) -> int:
        return sum(each.asked for each in self.stores.values())


@pytest.fixture
def make_world(
    make_conf: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    deadline.serving.set()
    yield lambda **values: World(make_conf(**values), monkeypatch)
    deadline.serving.clear()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


class TestAsking:
    def test_the_first_that_has_it_wins(self, world: World) -> None:
        """The other one need not have answered."""
        held = threading.Event()
        world.stores['two'].found = 'it'

        def slow(store: Any) -> Any:
            if store is world.stores['three']:
                assert held.wait(PATIENCE)
            return store.look()

        try:
            assert world.escalation.ask('it', slow) == 'it'
        finally:
            held.set()
        assert world.counted == ['found']

    def test_none_has_it(self, world: World) -> None:
        assert world.ask() is None
        assert world.asked == 2
        assert world.counted == ['missing']

    def test_one_that_is_away_hides_nothing(self, world: World) -> None:
        world.stores['two'].found = AWAY
        world.stores['three'].found = 'it'
        assert world.ask() == 'it'

    def test_one_that_is_away_may_have_it(self, world: World) -> None:
        world.stores['two'].found = AWAY
        assert world.ask() is None
        # So it is not known to be missing, and the other one is asked again.
        assert world.ask() is None
        assert world.counted == ['failed', 'held']
        assert world.stores['three'].asked == 2
        assert world.stores['two'].asked == 1

    def test_all_are_away(self, world: World) -> None:
        for store in world.stores.values():
            store.found = AWAY
        for _ in range(3):
            assert world.ask() is None
        assert world.asked == 2
        assert world.counted == ['failed', 'held', 'held']

    def test_one_is_asked_where_it_must_be(self, world: World) -> None:
        world.stores['two'].found = 'it'
        assert world.ask(among=lambda names: {'two'} & {*names}) == 'it'
        assert world.asked == 1

    def test_all_together_are_judged(self, world: World) -> None:
        world.stores['two'].found = 1
        world.stores['three'].found = 2
        assert world.escalation.ask_all('it', look, sum) == 3
        assert world.counted == ['found']

    def test_nothing_is_judged_where_one_says_nothing(
        self, world: World
    ) -> None:
        """It may be the one that knows better."""
        world.stores['two'].found = AWAY
        world.stores['three'].found = 1
        for _ in range(2):
            assert world.escalation.ask_all('it', look, sum) is None
        assert world.counted == ['failed', 'held']

    def test_nobody_can_have_it(self, world: World) -> None:
        assert world.ask(among=lambda names: []) is None
        assert world.asked == 0

    def test_what_is_missing_is_asked_for_once_a_second(
        self, world: World
    ) -> None:
        for _ in range(5):
            assert world.ask() is None
        assert world.asked == 2
        assert world.counted == ['missing']

    def test_no_more_than_the_bucket_has(self, world: World) -> None:
        for number in range(1000):
            world.ask(number)
        # Some more, since some time has passed.
        assert 20 <= world.counted.count('missing') <= 100
        assert world.asked == 2 * world.counted.count('missing')
        assert len(world.counted) == 1000

    def test_what_is_no_invention_needs_none(self, world: World) -> None:
        for number in range(100):
            world.ask(number, is_known=True)
        assert world.asked == 200

    def test_a_request_asks_once(self, world: World) -> None:
        world.stores['two'].found = 'it'
        with remembered.within_request():
            assert world.ask(is_known=True) == 'it'
            assert world.ask(is_known=True) == 'it'
        assert world.counted == ['found']

    def test_a_request_without_time_asks_nobody(self, world: World) -> None:
        with deadline.within(0):
            assert world.ask() is None
        assert world.asked == 0
        assert world.counted == ['held']

    def test_an_error_of_ours_is_told(self, world: World) -> None:
        world.stores['two'].found = KeyError('x')
        with pytest.raises(KeyError):
            world.ask()

    def test_it_is_switched_off(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(escalation_rate=0)
        assert world.ask() is None
        assert world.ask('more', is_known=True) is None
        world.escalation.connect()
        assert (world.asked, world.counted) == (0, [])
        assert world.stores['two'].sessions.gets == 0

    def test_the_only_datacenter_asks_nobody(self, world: World) -> None:
        world.names = {'one'}
        assert world.ask() is None
        assert (world.asked, world.counted) == (0, [])

    def test_a_command_asks_nobody(self, world: World) -> None:
        deadline.serving.clear()
        assert world.ask() is None
        assert (world.asked, world.counted) == (0, [])

    def test_sessions_of_who_is_no_more_are_closed(self, world: World) -> None:
        world.ask()
        world.names = {'one', 'two'}
        world.ask('more')
        closing = [
            each
            for each in threading.enumerate()
            if each.name == 'cassandra close'
        ]
        for each in closing:
            each.join(PATIENCE)
        assert world.stores['three'].is_closed
        assert not world.stores['two'].is_closed

    def test_all_are_closed_with_the_store(self, world: World) -> None:
        world.ask()
        world.escalation.close()
        assert all(each.is_closed for each in world.stores.values())


class TestStart:
    """Sessions are opened once requests are served."""

    @pytest.fixture
    def connection(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(escalation.changes, 'are_told', lambda _: True)
        return types.SimpleNamespace(
            cluster=types.SimpleNamespace(is_shutdown=False)
        )

    @staticmethod
    def end(world: World, connection: Any) -> None:
        store = types.SimpleNamespace(escalation=world.escalation)
        escalation.start(store, connection)  # type: ignore[arg-type]
        for each in threading.enumerate():
            if each.name == 'cassandra escalation':
                each.join(PATIENCE)
        for other in world.escalation.there.values():
            assert other.connecting is not None
            other.connecting.join(PATIENCE)

    def test_with_all_others(self, world: World, connection: Any) -> None:
        self.end(world, connection)
        assert [x.sessions.gets for x in world.stores.values()] == [1, 1]
        assert world.counted == []

    def test_not_once_the_connection_is_closed(
        self, world: World, connection: Any
    ) -> None:
        connection.cluster.is_shutdown = True
        self.end(world, connection)
        deadline.serving.clear()  # nor is that waited for
        self.end(world, connection)
        assert world.escalation.there == {}

    def test_who_is_away_is_tried_later(
        self, world: World, connection: Any
    ) -> None:
        """And no request waits for it."""
        for store in world.stores.values():
            store.sessions.current = None
        self.end(world, connection)
        assert world.ask() is None
        assert (world.asked, world.counted) == (0, ['held'])


@pytest.mark.parametrize(
    ('seconds', 'born'),
    [(0, True), (840, True), (960, False), (-60, True), (-180, False)],
)
def test_what_was_born_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch, seconds: int, born: bool
) -> None:
    incarnation = clock.incarnation()
    at = clock.from_micros(clock.micros_of(incarnation))
    monkeypatch.setattr(
        clock,
        'utcnow',
        lambda: at + clock.datetime.timedelta(seconds=seconds),
    )
    assert escalation.is_born(incarnation) == born


def test_nobody_knows_when_it_was_born() -> None:
    assert not escalation.is_born(None)
    assert not escalation.is_born(uuid.UUID(int=0, version=1))
