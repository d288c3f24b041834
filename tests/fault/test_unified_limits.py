# SPDX-License-Identifier: Apache-2.0
"""Limits under crashes, lost replies and races with their registered ones."""

import contextlib
import datetime
import threading
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers.limit import driver as unified_limit
from keystone_cassandra_token.drivers.limit.limits import (
    LIMITS,
    REGISTERED_LIMITS,
)
from keystone_cassandra_token.tables import unique
from tests.fault import faults
from tests.fault.generated import (
    DONE,
    Generated,
    World,
    found,
    ghosts,
    operation,
    told,
    wrong_names,
)

SEVERAL = 3
CREATORS = 8


@pytest.fixture
def driver(store):
    return unified_limit.UnifiedLimit()


@pytest.fixture
def impatient(monkeypatch):
    """Let what a process that died has left be taken over at once."""
    at_once = datetime.timedelta(0)
    monkeypatch.setattr(unique, 'STALE_AFTER', at_once)
    monkeypatch.setattr(unified_limit, 'CLOSED', at_once)


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'service_id': uuid.uuid4().hex,
        'region_id': None,
        'resource_name': 'volume',
        'default_limit': 10,
        'description': None,
        **more,
    }


def new_limit(registered, **more):
    return {
        'id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'domain_id': None,
        'resource_limit': 5,
        'description': None,
        **{
            name: registered[name]
            for name in ('service_id', 'region_id', 'resource_name')
        },
        **more,
    }


def make(driver, **more):
    (made,) = driver.create_registered_limits([new(**more)])
    return made


def make_limit(driver, registered, **more):
    (made,) = driver.create_limits([new_limit(registered, **more)])
    return made


def again(made):
    """Return what is asked for again: Keystone gives it another id."""
    return [each | {'id': uuid.uuid4().hex} for each in made]


def hints_for(**wanted):
    hints = Hints()
    for name, value in wanted.items():
        hints.add_filter(name, value)
    return hints


def is_registered(driver, made):
    """Return whether one is there, in all ways in which it can be asked."""
    try:
        found = driver.get_registered_limit(made['id'])
    except exception.RegisteredLimitNotFound:
        found = None
    listed = driver.list_registered_limits(
        hints_for(service_id=made['service_id'])
    )
    assert (made['id'] in {each['id'] for each in listed}) is bool(found)
    assert found in (made, None)
    return found is not None


def is_limit(driver, made):
    """Return whether one is there, in all ways in which it can be asked."""
    try:
        found = driver.get_limit(made['id'])
    except exception.LimitNotFound:
        found = None
    for name in ('project_id', 'service_id'):
        listed = driver.list_limits(hints_for(**{name: made[name]}))
        assert (made in listed) is bool(found)
    assert found in (made, None)
    return found is not None


def several(count=SEVERAL):
    service = uuid.uuid4().hex
    return [
        new(service_id=service, resource_name=f'resource {number}')
        for number in range(count)
    ]


class RegisteredLimits(World):
    """A registered limit; without a limit, as long as nobody makes one."""

    kinds = ('registered_limit', 'limit')
    ages = (*World.ages, (unified_limit, 'CLOSED'))
    several = ('one', 'two', 'three')

    def __init__(self, store):
        super().__init__(store)
        self.driver = unified_limit.UnifiedLimit()
        self.register('first', volume='volume')

    def register(self, *labels, **names):
        self.driver.create_registered_limits(
            [
                new(
                    id=self.id(label),
                    service_id=self.id('service'),
                    resource_name=names.get('volume', label),
                )
                for label in labels
            ]
        )

    def limit(self, *labels):
        registered = new(service_id=self.id('service'))
        self.driver.create_limits(
            [
                new_limit(
                    registered,
                    id=self.id(f'limit {label}'),
                    project_id=self.id(f'project {label}'),
                )
                for label in labels
            ]
        )

    @operation(exception.Conflict, makes='second')
    def register_again(self):
        self.register('second', volume='volume')

    @operation(exception.Conflict, makes='second')
    def register_other(self):
        self.register('second', volume='other')

    @operation(exception.Conflict)
    def register_several(self):
        self.register(*self.several)

    @operation(exception.Conflict)  # it is called so
    def rename(self):
        self.driver.update_registered_limit(
            self.id('first'), {'resource_name': 'other'}
        )

    @operation()
    def describe(self):
        self.driver.update_registered_limit(
            self.id('first'), {'description': 'new'}
        )

    @operation(exception.RegisteredLimitNotFound)
    def delete(self):
        self.driver.delete_registered_limit(self.id('first'))

    @operation(exception.Conflict)
    def make_limit(self):
        self.limit('one')

    # The first ones may be made, and who was not told makes them no more.
    @operation(partly=None, repeats=False)
    def make_limits(self):
        self.limit(*self.several)

    def state(self):
        service = hints_for(service_id=self.id('service'))
        registered = self.driver.list_registered_limits(service)
        limits = [each['id'] for each in self.driver.list_limits(service)]
        seen = {
            'registered': self.labels(
                (each['id'] for each in registered), False
            ),
        }
        for label in ('first', 'second', *self.several):
            one = found(self.driver.get_registered_limit, self.id(label))
            seen[f'registered {label}'] = one and (
                one['resource_name'],
                one['description'],
            )
        for label in self.several:
            one = found(self.driver.get_limit, self.id(f'limit {label}'))
            project = hints_for(project_id=self.id(f'project {label}'))
            seen[label] = one and one['resource_name']
            seen[f'listed {label}'] = self.id(f'limit {label}') in limits
            listed = self.driver.list_limits(project)
            assert bool(listed) is (one is not None)
        return seen

    def wrong(self):
        labels = ('first', 'second', *self.several)
        keys = {
            name: REGISTERED_LIMITS.specs[0].keys(
                self.store,
                new(service_id=self.id('service'), resource_name=name),
            )[0]
            for name in ('volume', 'other', *self.several)
        }
        wrong = wrong_names(
            self, REGISTERED_LIMITS.entity, REGISTERED_LIMITS, keys, labels
        )
        first = self.id('first')
        there = REGISTERED_LIMITS.entity.find(self.store, first)
        keys = {
            f'the limit {label}': LIMITS.specs[0].keys(
                self.store,
                {
                    'project_id': self.id(f'project {label}'),
                    'domain_id': None,
                    'registered_limit_id': first,
                },
            )[0]
            for label in self.several
        }
        limits = [f'limit {label}' for label in self.several]
        wrong += wrong_names(self, LIMITS.entity, LIMITS, keys, limits)
        return wrong + [
            f'{label} without what it limits'
            for label in limits
            if not there and LIMITS.entity.find(self.store, self.id(label))
        ]

    def left(self):
        labels = ('first', 'second', *self.several)
        limits = [f'limit {label}' for label in self.several]
        wrong = ghosts(self, REGISTERED_LIMITS.entity, labels)
        return wrong + ghosts(self, LIMITS.entity, limits)

    def probe(self):
        """It is open: a limit can be made on it, as long as it is there."""
        if not found(self.driver.get_registered_limit, self.id('first')):
            return []
        name = self.driver.get_registered_limit(self.id('first'))
        limit = new_limit(name, id=self.id('probe'))
        said = told(self.driver.create_limits, [limit])
        if said == DONE:
            self.driver.delete_limit(self.id('probe'))
        return [] if said == DONE else [f'{said} to who limits it']


class TestRegisteredLimits(Generated):
    world = RegisteredLimits


class Limits(RegisteredLimits):
    """The limit of a project."""

    def __init__(self, store):
        super().__init__(store)
        self.limit('one')

    @operation(exception.LimitNotFound)
    def delete_limit(self):
        self.driver.delete_limit(self.id('limit one'))

    @operation(exception.Conflict)
    def make_another(self):
        self.limit('two')

    @operation()
    def delete_for_project(self):
        self.driver.delete_limits_for_project(self.id('project one'))

    @operation()
    def raise_limit(self):
        self.driver.update_limit(self.id('limit one'), {'resource_limit': 7})

    @classmethod
    def operations(cls):
        names = (
            'delete_limit',
            'make_another',
            'delete_for_project',
            'raise_limit',
            'make_limit',
            'rename',
            'delete',
        )
        every = super().operations()
        return {name: every[name] for name in names}


class TestLimits(Generated):
    world = Limits


class TestLostReplies:
    def test_registered_limits_that_are_refused(self, driver, store):
        wanted = several()
        insert = REGISTERED_LIMITS.entity.insert
        with (
            faults.lose_reply(store, insert, times=2) as lost,
            faults.hold(store, insert) as held,
        ):
            failures = []
            late = in_thread(failures, driver.create_registered_limits, wanted)
            assert held.reached.wait(faults.PATIENCE)
            # One of the ids is taken after they were looked for.
            other = make(driver, id=wanted[-1]['id'])
            pass_over(held, late)
        assert lost.fired == 2
        assert [type(each) for each in failures] == [exception.Conflict]
        assert not any(is_registered(driver, each) for each in wanted[:-1])
        assert is_registered(driver, other)


class TestFailures:
    """What failed is as if it had not been tried."""

    @pytest.mark.parametrize(
        'kind', [REGISTERED_LIMITS, LIMITS], ids=['registered', 'limits']
    )
    def test_one_that_loses_its_name_takes_back_the_others(
        self, driver, store, kind, impatient
    ):
        """Somebody takes the name of one that was slow, behind a fence."""
        registered = make(driver)
        if kind is LIMITS:
            wanted = [new_limit(registered) for _ in range(SEVERAL)]
            create, is_there = driver.create_limits, is_limit
        else:
            wanted = several()
            create, is_there = driver.create_registered_limits, is_registered
        second = wanted[1]
        (key,) = kind.specs[0].keys(
            store, second | {'registered_limit_id': registered['id']}
        )
        taken = []

        def take_the_second(statements, send):
            if kind.entity.insert in statements and not taken:
                taken.append(statements)
                kind.entity.fence.put(store, second['id'])
                claim = kind.claims.find(store, second['id'], key)
                assert store.cas(
                    kind.claims.replace,
                    owner='another',
                    stamp=clock.incarnation(),
                    claimed_at=0,
                    seen_owner=claim.owner,
                    seen_stamp=claim.stamp,
                    **key,
                )
            return send()

        with (
            faults.intercepted(store, take_the_second),
            pytest.raises(exception.Conflict),
        ):
            create(wanted)
        assert taken
        assert not any(is_there(driver, each) for each in wanted)
        create(again(wanted))


def in_thread(failures, call, *args):
    """Start a call in a thread of its own, noting what it raises."""

    def run():
        try:
            call(*args)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def pass_over(held, late):
    held.release()
    late.join(faults.PATIENCE)
    assert not late.is_alive()


class Changing(faults.Held):
    """A change that waits, having closed its registered limit and looked."""

    def __init__(self, change):
        entity = REGISTERED_LIMITS.entity
        super().__init__(
            entity.delete if change == 'delete' else entity.update
        )
        self._closing = change != 'delete'  # an UPDATE too, the first one

    def meets(self, statements):
        if self._closing and self.target in statements:
            self._closing = False
            return False
        return super().meets(statements)


@contextlib.contextmanager
def changing(store, change):
    held = Changing(change)

    def action(statements, send):
        if held.meets(statements):
            held.wait()
        return send()

    with faults.intercepted(store, action):
        try:
            yield held
        finally:
            held.release()
    held.check()


class TestRaces:
    """A limit is made while its registered limit is deleted or changed."""

    def test_who_opens_late_finds_it_gone(self, driver, store, impatient):
        """Closed for long, and deleted after all before it is opened."""
        registered = make(driver)
        wanted = new_limit(registered)
        with changing(store, 'delete') as deleting:
            failures = []
            deletion = in_thread(
                failures, driver.delete_registered_limit, registered['id']
            )
            assert deleting.reached.wait(faults.PATIENCE)
            # The next one to send an UPDATE is who opens it.
            with faults.hold(store, REGISTERED_LIMITS.entity.update) as held:
                creation = in_thread(failures, driver.create_limits, [wanted])
                assert held.reached.wait(faults.PATIENCE)
                pass_over(deleting, deletion)
                pass_over(held, creation)
        assert [type(each) for each in failures] == [
            exception.NoLimitReference
        ]
        assert not is_limit(driver, wanted)
        assert not is_registered(driver, registered)

    def test_of_two_equal_renames_one_is_refused(self, driver, store):
        """As it is where one comes after the other."""
        registered = make(driver)
        changes = {'resource_name': 'share', 'default_limit': 1}
        with faults.stalled(
            store,
            REGISTERED_LIMITS.entity.update,
            lambda: driver.update_registered_limit(registered['id'], changes),
        ) as late:
            renamed = driver.update_registered_limit(
                registered['id'], {'resource_name': 'share'}
            )
        assert type(late.said) is exception.Conflict
        assert driver.get_registered_limit(registered['id']) == renamed
        make_limit(driver, renamed)  # it is open

    def test_all_at_once(self, driver):
        """Whoever wins, nothing is left that does not fit."""
        registered = make(driver)
        wanted = [new_limit(registered) for _ in range(CREATORS)]
        failures = []
        start = threading.Barrier(CREATORS + 2)

        def race(call, *args):
            start.wait(faults.PATIENCE)
            call(*args)

        threads = [
            in_thread(failures, race, driver.create_limits, [each])
            for each in wanted
        ] + [
            in_thread(
                failures,
                race,
                driver.delete_registered_limit,
                registered['id'],
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.join(faults.PATIENCE)
        allowed = (
            exception.NoLimitReference,
            exception.Conflict,
            exception.RegisteredLimitError,
            exception.RegisteredLimitNotFound,
            errors.StoreUnavailable,
        )
        assert [each for each in failures if type(each) not in allowed] == []
        there = [is_limit(driver, each) for each in wanted]
        assert not any(there) or is_registered(driver, registered)
        for each in wanted:
            driver.delete_limits_for_project(each['project_id'])
        if is_registered(driver, registered):
            driver.delete_registered_limit(registered['id'])

    def test_one_name_has_one_owner(self, driver):
        service = uuid.uuid4().hex
        wanted = [
            several(1)[0] | {'service_id': service} for _ in range(CREATORS)
        ]
        failures = []
        start = threading.Barrier(CREATORS)

        def race(each):
            start.wait(faults.PATIENCE)
            driver.create_registered_limits([each])

        threads = [in_thread(failures, race, each) for each in wanted]
        for thread in threads:
            thread.join(faults.PATIENCE)
        listed = driver.list_registered_limits(hints_for(service_id=service))
        assert len(listed) == CREATORS - len(failures) <= 1
        conflicts = [type(each) is exception.Conflict for each in failures]
        assert sum(conflicts) >= CREATORS // 2
