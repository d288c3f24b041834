# SPDX-License-Identifier: Apache-2.0
"""A region that has just been cut off, and does not know it yet.

Its node takes the others for alive, so what needs most of the three regions
gets no answer at all.  How long a request waits is what it gives the driver,
and no matter of a clock here.  Once the regions hear each other again, what
was given up may be made late.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import keystone.conf
import pytest
from keystone import exception
from lab.waiting import until

from keystone_cassandra_token.db import (
    agreement,
    clock,
    consistency,
    deadline,
    errors,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.tables import unique
from tests.fault import faults, two_regions
from tests.fault.two_regions import Regions

#: Seconds of a request, and after which something has gone wrong.
DEADLINE, PATIENCE = 30, 120
USES = 5


@pytest.fixture(scope='module')
def regions() -> Iterator[Regions]:
    with two_regions.started(datacenters=3) as regions:
        yield regions


@dataclasses.dataclass
class Sent:
    """What a call has sent that needs other regions.

    :ivar seconds: what each request was given.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def served(store: Store) -> Iterator[Sent]:
    """Be a client's request; note what it sends."""
    sent = Sent()

    def action(statements: Any, send: Any) -> Any:
        if statements[0].operation in consistency.WIDE:
            inner = send
            while 'timeout' not in inner.keywords:
                inner = inner.args[-1]  # of another interceptor
            sent.seconds.append(inner.keywords['timeout'])
        return send()

    with faults.intercepted(store, action), deadline.of_request(DEADLINE):
        yield sent


def refused(store: Store, call: Callable[[], object]) -> Sent:
    with served(store) as sent, pytest.raises(errors.StoreUnavailable):
        call()
    return sent


def make_role(role_id: str, name: str) -> None:
    new = {'id': role_id, 'name': name, 'domain_id': None}
    role.Role().create_role(role_id, new)


def make_user(user_id: str, name: str) -> None:
    make_user_by(identity.Identity(), user_id, name)


def make_user_by(driver: identity.Identity, user_id: str, name: str) -> None:
    new = {'id': user_id, 'name': name, 'domain_id': 'd', 'enabled': True}
    driver.create_user(user_id, new)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Something with a name on which the regions agree."""

    make: Callable[[str, str], None]
    rename: Callable[[str, dict[str, Any]], object]
    get: Callable[[str], dict[str, Any]]
    delete: Callable[[str], object]


def kind(name: str) -> Kind:
    if name == 'role':
        roles = role.Role()
        return Kind(
            make_role, roles.update_role, roles.get_role, roles.delete_role
        )
    people = identity.Identity()
    return Kind(
        make_user, people.update_user, people.get_user, people.delete_user
    )


class World:
    """One of a kind, and what is done to it.

    :ivar former: its name at first.
    :ivar name: the name that it is to have in the end; None for no one.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.id, self.former, self.new = (uuid.uuid4().hex for _ in range(3))
        self.name: str | None = None

    def create(self) -> Callable[[], object]:
        self.name = self.new
        return lambda: self.kind.make(self.id, self.new)

    def rename(self) -> Callable[[], object]:
        self.kind.make(self.id, self.former)
        self.name = self.new
        return lambda: self.kind.rename(self.id, {'name': self.new})

    def delete(self) -> Callable[[], object]:
        self.kind.make(self.id, self.former)
        return lambda: self.kind.delete(self.id)

    def is_done(self) -> bool:
        try:
            return bool(self.kind.get(self.id)['name'] == self.name)
        except exception.NotFound:
            return self.name is None

    def others_may_have(self, name: str) -> bool:
        """Return whether another one can be made with a name."""
        try:
            self.kind.make(uuid.uuid4().hex, name)
        except exception.Conflict:
            return False
        return True


def people_of(store: Store) -> identity.Identity:
    """Return the driver of a server with a store."""
    driver = identity.Identity()
    driver.db = store
    return driver


def fails_at_once(store: Store) -> bool:
    """Return whether a claim does, of one of two requests side by side.

    After a moment one of them may be tried.
    """
    check = store.sessions.cut_off.check
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        try:
            check(consistency.Operation.LWT_GLOBAL)
            other.submit(check, consistency.Operation.LWT_GLOBAL).result()
        except errors.StoreUnavailable:
            return True
    return False


def until_answered(call: Callable[[], object]) -> None:
    """Call, as a client that comes back, until it is not 503."""

    def answered() -> bool:
        with deadline.of_request(DEADLINE):
            try:
                call()
            except errors.StoreUnavailable:
                return False
            # It was made late, and is not made twice.
            except (exception.Conflict, exception.NotFound):
                return True
        return True

    until(answered, 'the other region', PATIENCE)


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('role', 'create'),
        ('role', 'rename'),
        ('role', 'delete'),
        ('user', 'create'),
        ('user', 'rename'),
    ],
)
def test_a_name_is_refused_in_time_and_not_lost(
    regions: Regions, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    # Not since something else has just failed.
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    world = World(kind(name))
    call: Callable[[], object] = getattr(world, what)()
    with regions.silent():
        sent = refused(regions.here, call)
    assert sent.seconds
    assert sum(sent.seconds) <= keystone.conf.CONF.cassandra.claim_wait
    regions.settle()
    until_answered(call)
    assert world.is_done()
    # A minute later whatever was left is nobody's.
    real, ahead = clock.utcnow, 2 * unique.STALE_AFTER
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)
    assert world.others_may_have(world.former)
    assert world.others_may_have(world.new) == (world.name is None)
    assert world.is_done()


def test_a_user_is_deleted_and_its_name_is_left(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one region decides that, it only waits for the name."""
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    world = World(kind('user'))
    delete = world.delete()
    with regions.silent(), served(regions.here) as sent:
        delete()
    assert sent.seconds
    assert sum(sent.seconds) <= keystone.conf.CONF.cassandra.claim_wait
    regions.settle()
    assert world.is_done()
    real, ahead = clock.utcnow, 2 * unique.STALE_AFTER
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)
    assert world.others_may_have(world.former)


def a_trust() -> dict[str, Any]:
    parties = ('trustor_user_id', 'trustee_user_id', 'project_id')
    return {
        **{each: uuid.uuid4().hex for each in parties},
        'impersonation': False,
        'expires_at': clock.utcnow() + datetime.timedelta(hours=1),
        'remaining_uses': USES,
    }


def test_a_limited_trust_is_refused_in_time(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    driver = trust.Trust()
    given, trust_id, new_id = a_trust(), uuid.uuid4().hex, uuid.uuid4().hex
    driver.create_trust(trust_id, given, [])
    other = a_trust()

    def use() -> None:
        driver.consume_use(trust_id)

    def create() -> None:
        driver.create_trust(new_id, other, [])

    for call in use, create:
        with regions.silent():
            sent = refused(regions.here, call)
        assert sent.seconds
        assert sum(sent.seconds) <= keystone.conf.CONF.cassandra.claim_wait
        regions.settle()
        until_answered(call)
    # The use that was refused may be lost, and none is given twice.
    left = driver.get_trust(trust_id)['remaining_uses']
    assert left in (USES - 1, USES - 2)


def test_of_many_requests_one_waits_each_second(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, 'HOLDS', PATIENCE)
    new = World(kind('user'))
    cut_off = regions.here.sessions.cut_off
    with regions.silent():
        assert refused(regions.here, new.create()).seconds
        assert not refused(regions.here, new.create()).seconds
        # The moment is over.
        monkeypatch.setattr(agreement, 'HOLDS', 0.0)
        cut_off.began(consistency.Operation.LWT_GLOBAL, '')
        assert refused(regions.here, new.create()).seconds
    regions.settle()
    until_answered(new.create())
    assert new.is_done()


def test_two_of_three_go_on_without_the_third(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, 'HOLDS', PATIENCE)
    *others, away = regions.stores
    made: list[tuple[str, str]] = []
    late = uuid.uuid4().hex, uuid.uuid4().hex

    def make_late() -> None:
        make_user_by(people_of(away), *late)

    def others_make_one() -> None:
        for store in others:
            made.append((uuid.uuid4().hex, uuid.uuid4().hex))
            with served(store) as sent:
                make_user_by(people_of(store), *made[-1])
            assert sent.seconds
            assert not fails_at_once(store)

    with regions.deaf(away):
        others_make_one()
        sent = refused(away, make_late)
        assert sent.seconds
        assert sum(sent.seconds) <= keystone.conf.CONF.cassandra.claim_wait
        # For a moment it fails at once there, and there alone.
        assert not refused(away, make_late).seconds
        others_make_one()
    regions.settle()
    assert fails_at_once(away)
    # The moment is over.
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    away.sessions.cut_off.began(consistency.Operation.LWT_GLOBAL, '')
    until_answered(make_late)
    monkeypatch.setattr(agreement, 'HOLDS', PATIENCE)
    people = people_of(away)
    assert people.get_user(late[0])['name'] == late[1]
    assert not fails_at_once(away)
    # What was named meanwhile it knows of, and names are claimed there again.
    for user_id, name in made:
        assert people.get_user(user_id)['name'] == name
        with pytest.raises(exception.Conflict):
            make_user_by(people, uuid.uuid4().hex, name)
    with served(away) as sent:
        make_user_by(people, uuid.uuid4().hex, uuid.uuid4().hex)
    assert sent.seconds
