# SPDX-License-Identifier: Apache-2.0
"""Limits under crashes, lost replies and races with their registered ones."""

import contextlib
import datetime
import threading
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.limit import driver as unified_limit
from keystone_cassandra_token.drivers.limit.limits import (
    LIMITS,
    REGISTERED_LIMITS,
)
from keystone_cassandra_token.tables import unique
from tests.fault import faults

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


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    def test_create_registered_limits(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store, several, driver.create_registered_limits
        ):
            there = [is_registered(driver, each) for each in made]
            assert len(set(there)) == 1  # all or none
            outcomes.append(there[0])
            if there[0]:
                with pytest.raises(exception.Conflict):
                    driver.create_registered_limits(again(made))
                for each in made:
                    make_limit(driver, each)
            else:
                repeated = again(made)
                driver.create_registered_limits(repeated)
                assert all(is_registered(driver, each) for each in repeated)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_create_limits(self, driver, store):
        registered = make(driver)
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: [new_limit(registered) for _number in range(SEVERAL)],
            driver.create_limits,
        ):
            there = [is_limit(driver, each) for each in made]
            # Perhaps the first ones, as the driver says.
            assert there == sorted(there, reverse=True)
            outcomes.append(sum(there))
            if any(there):
                with pytest.raises(exception.Conflict):
                    driver.create_limits(again(made))
                for each in made[: sum(there)]:
                    driver.delete_limit(each['id'])
            repeated = again(made)
            driver.create_limits(repeated)
            assert all(is_limit(driver, each) for each in repeated)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (0, SEVERAL)

    @pytest.mark.parametrize(
        'changes', [{'resource_name': 'other'}, {'default_limit': 1}]
    )
    def test_update_registered_limit(self, driver, store, changes):
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: make(driver),
            lambda each: driver.update_registered_limit(each['id'], changes),
        ):
            found = driver.get_registered_limit(made['id'])
            assert found in (made, made | changes)
            outcomes.append(found == made | changes)
            # A limit can be made on it, by the name that it has.
            limit = make_limit(driver, found)
            driver.delete_limit(limit['id'])
            if found == made:
                driver.update_registered_limit(made['id'], changes)
            with pytest.raises(exception.Conflict):
                driver.create_registered_limits(again([made | changes]))
            if 'resource_name' in changes:
                driver.create_registered_limits(again([made]))
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete_registered_limit(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: make(driver),
            lambda each: driver.delete_registered_limit(each['id']),
        ):
            there = is_registered(driver, made)
            outcomes.append(there)
            if there:
                # Limits can be made on it, and keep it.
                limit = make_limit(driver, made)
                with pytest.raises(exception.RegisteredLimitError):
                    driver.delete_registered_limit(made['id'])
                driver.delete_limit(limit['id'])
                driver.delete_registered_limit(made['id'])
            with pytest.raises(exception.NoLimitReference):
                make_limit(driver, made)
            driver.create_registered_limits(again([made]))
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    def test_delete_limit(self, driver, store):
        registered = make(driver)
        for _, made in faults.each_crash(
            store,
            lambda: make_limit(driver, registered),
            lambda each: driver.delete_limit(each['id']),
        ):
            if is_limit(driver, made):
                with pytest.raises(exception.Conflict):
                    driver.create_limits(again([made]))
                driver.delete_limit(made['id'])
            (repeated,) = driver.create_limits(again([made]))
            driver.delete_limit(repeated['id'])
        # What is left of deleted ones does not keep it.
        driver.delete_registered_limit(registered['id'])

    def test_delete_limits_for_project(self, driver, store):
        registered = several()
        driver.create_registered_limits(registered)

        def prepare():
            project_id = uuid.uuid4().hex
            return driver.create_limits(
                [new_limit(each, project_id=project_id) for each in registered]
            )

        for _, made in faults.each_crash(
            store,
            prepare,
            lambda each: driver.delete_limits_for_project(
                each[0]['project_id']
            ),
        ):
            left = [each['id'] for each in made if is_limit(driver, each)]
            gone = driver.delete_limits_for_project(made[0]['project_id'])
            assert sorted(gone) == sorted(left)
            assert not any(is_limit(driver, each) for each in made)


CREATIONS = {
    'claim': REGISTERED_LIMITS.claims.insert,
    'base_row': REGISTERED_LIMITS.entity.insert,
    'confirm': REGISTERED_LIMITS.claims.set_held,
}
LIMIT_CREATIONS = {
    'claim': LIMITS.claims.insert,
    'base_row': LIMITS.entity.insert,
    'check': REGISTERED_LIMITS.entity.settle,
    'confirm': LIMITS.claims.set_held,
}


class TestLostReplies:
    @pytest.mark.parametrize('name', CREATIONS)
    def test_create_registered_limits(self, driver, store, name):
        with faults.lose_reply(store, CREATIONS[name]):
            made = driver.create_registered_limits(several())
        assert all(is_registered(driver, each) for each in made)

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

    @pytest.mark.parametrize('name', ['claim', 'base_row', 'confirm'])
    def test_create_limits(self, driver, store, name):
        registered = make(driver)
        with faults.lose_reply(store, LIMIT_CREATIONS[name]):
            made = driver.create_limits(
                [new_limit(registered) for _ in range(SEVERAL)]
            )
        assert all(is_limit(driver, each) for each in made)

    @pytest.mark.parametrize(
        'target',
        [
            REGISTERED_LIMITS.entity.update,
            REGISTERED_LIMITS.claims.set_pending,
            REGISTERED_LIMITS.claims.insert,
            REGISTERED_LIMITS.claims.set_held,
            REGISTERED_LIMITS.claims.free_pending,
        ],
    )
    def test_update_registered_limit(self, driver, store, target):
        made = make(driver)
        with faults.lose_reply(store, target):
            changed = driver.update_registered_limit(
                made['id'], {'resource_name': 'other'}
            )
        assert driver.get_registered_limit(made['id']) == changed
        make_limit(driver, changed)
        driver.create_registered_limits(again([made]))

    @pytest.mark.parametrize(
        'target',
        [
            REGISTERED_LIMITS.entity.update,
            REGISTERED_LIMITS.claims.set_pending,
            REGISTERED_LIMITS.entity.delete,
            REGISTERED_LIMITS.claims.free_pending,
        ],
    )
    def test_delete_registered_limit(self, driver, store, target):
        made = make(driver)
        with faults.lose_reply(store, target):
            driver.delete_registered_limit(made['id'])
        assert not is_registered(driver, made)
        driver.create_registered_limits(again([made]))


class TestFailures:
    """What failed is as if it had not been tried."""

    @pytest.mark.parametrize('name', CREATIONS)
    def test_create_registered_limits(self, driver, store, name, impatient):
        wanted = several()
        with (
            faults.fail(store, CREATIONS[name]),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.create_registered_limits(wanted)
        assert not any(is_registered(driver, each) for each in wanted)
        driver.create_registered_limits(again(wanted))

    @pytest.mark.parametrize('name', LIMIT_CREATIONS)
    def test_create_limits(self, driver, store, name, impatient):
        registered = make(driver)
        wanted = [new_limit(registered) for _ in range(SEVERAL)]
        with (
            faults.fail(store, LIMIT_CREATIONS[name]),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.create_limits(wanted)
        assert not any(is_limit(driver, each) for each in wanted)
        made = driver.create_limits(again(wanted))
        for each in made:
            driver.delete_limit(each['id'])
        driver.delete_registered_limit(registered['id'])

    @pytest.mark.parametrize(
        'kind', [REGISTERED_LIMITS, LIMITS], ids=['registered', 'limits']
    )
    def test_one_that_loses_its_name_takes_back_the_others(
        self, driver, store, kind, impatient
    ):
        """Also those whose names are held by then."""
        registered = make(driver)
        if kind is LIMITS:
            wanted = [new_limit(registered) for _ in range(SEVERAL)]
            create, is_there = driver.create_limits, is_limit
        else:
            wanted = several()
            create, is_there = driver.create_registered_limits, is_registered
        second = wanted[-2]  # the last one is held first
        (key,) = kind.keys(
            store, second | {'registered_limit_id': registered['id']}
        )
        holds = []

        def take_the_second(statements, send):
            if kind.claims.set_held in statements:
                holds.append(statements)
                if len(holds) == 2:
                    assert store.cas(
                        kind.claims.take_over,
                        seen=second['id'],
                        owner='another',
                        claimed_at=0,
                        **key,
                    )
            return send()

        with (
            faults.intercepted(store, take_the_second),
            pytest.raises(exception.Conflict),
        ):
            create(wanted)
        assert len(holds) >= 2
        assert not any(is_there(driver, each) for each in wanted)
        create(again(wanted))

    @pytest.mark.parametrize(
        'target',
        [
            REGISTERED_LIMITS.entity.delete,
            REGISTERED_LIMITS.claims.free_pending,
        ],
    )
    def test_delete_registered_limit(self, driver, store, target, impatient):
        made = make(driver)
        with (
            faults.fail(store, target),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.delete_registered_limit(made['id'])
        if is_registered(driver, made):
            # It is open again.
            driver.delete_limit(make_limit(driver, made)['id'])
            driver.delete_registered_limit(made['id'])
        driver.create_registered_limits(again([made]))

    def test_a_failed_deletion_leaves_it_open(self, driver, store):
        made = make(driver)
        with (
            faults.fail(store, REGISTERED_LIMITS.entity.delete),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.delete_registered_limit(made['id'])
        make_limit(driver, made)

    def test_a_refused_name_leaves_it_open(self, driver, store):
        made = make(driver)
        wanted = {'resource_name': 'other'}
        with faults.hold(store, REGISTERED_LIMITS.claims.insert) as held:
            failures = []
            late = in_thread(
                failures, driver.update_registered_limit, made['id'], wanted
            )
            assert held.reached.wait(faults.PATIENCE)
            make(driver, service_id=made['service_id'], **wanted)
            pass_over(held, late)
        assert [type(each) for each in failures] == [exception.Conflict]
        assert driver.get_registered_limit(made['id']) == made
        make_limit(driver, made)


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


def apply(driver, registered, change):
    if change == 'delete':
        driver.delete_registered_limit(registered['id'])
    else:
        changes = {
            'rename': {'resource_name': 'other'},
            'describe': {'description': 'other'},
        }
        driver.update_registered_limit(registered['id'], changes[change])


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

    @pytest.mark.parametrize(
        'target', [LIMITS.claims.insert, LIMITS.entity.insert]
    )
    @pytest.mark.parametrize('change', ['delete', 'rename'])
    def test_a_limit_that_comes_late_is_taken_back(
        self, driver, store, target, change
    ):
        registered = make(driver)
        wanted = [new_limit(registered) for _ in range(SEVERAL)]
        with faults.hold(store, target) as held:
            failures = []
            late = in_thread(failures, driver.create_limits, wanted)
            assert held.reached.wait(faults.PATIENCE)
            if change == 'delete':
                driver.delete_registered_limit(registered['id'])
            else:
                driver.update_registered_limit(
                    registered['id'], {'resource_name': 'other'}
                )
            pass_over(held, late)
        assert [type(each) for each in failures] == [
            exception.NoLimitReference
        ]
        assert not any(is_limit(driver, each) for each in wanted)
        if change == 'rename':
            driver.delete_registered_limit(registered['id'])

    @pytest.mark.parametrize('change', ['delete', 'rename', 'describe'])
    def test_a_limit_that_comes_first_keeps_it(self, driver, store, change):
        registered = make(driver)
        wanted = new_limit(registered)
        with faults.hold(store, REGISTERED_LIMITS.entity.settle) as held:
            failures = []
            late = in_thread(failures, driver.create_limits, [wanted])
            assert held.reached.wait(faults.PATIENCE)
            with pytest.raises(exception.RegisteredLimitError):
                apply(driver, registered, change)
            pass_over(held, late)
        assert failures == []
        assert is_limit(driver, wanted)
        assert is_registered(driver, registered)

    @pytest.mark.parametrize('change', ['delete', 'rename', 'describe'])
    def test_a_limit_that_comes_before_it_is_closed_keeps_it(
        self, driver, store, change
    ):
        registered = make(driver)
        # Who wants to change it has looked once, and sends an UPDATE to close.
        with faults.hold(store, REGISTERED_LIMITS.entity.update) as held:
            failures = []
            late = in_thread(failures, apply, driver, registered, change)
            assert held.reached.wait(faults.PATIENCE)
            made = make_limit(driver, registered)
            pass_over(held, late)
        assert [type(each) for each in failures] == [
            exception.RegisteredLimitError
        ]
        assert is_limit(driver, made)
        assert is_registered(driver, registered)
        # It is open again.
        assert make_limit(driver, registered)

    @pytest.mark.parametrize('change', ['delete', 'rename', 'describe'])
    def test_while_it_is_closed_nobody_makes_one(self, driver, store, change):
        registered = make(driver)
        wanted = new_limit(registered)
        with changing(store, change) as held:
            failures = []
            late = in_thread(failures, apply, driver, registered, change)
            assert held.reached.wait(faults.PATIENCE)
            with pytest.raises(exception.Conflict):
                driver.create_limits([wanted])
            pass_over(held, late)
        assert failures == []
        assert not is_limit(driver, wanted)
        if change == 'describe':
            assert make_limit(driver, registered)
        else:
            with pytest.raises(exception.NoLimitReference):
                make_limit(driver, registered)

    @pytest.mark.parametrize('change', ['delete', 'rename', 'describe'])
    def test_a_change_that_stalls_is_overtaken(
        self, driver, store, change, impatient
    ):
        """It has seen no limits; it must not go on after one was made."""
        registered = make(driver)
        with changing(store, change) as held:
            failures = []
            late = in_thread(failures, apply, driver, registered, change)
            assert held.reached.wait(faults.PATIENCE)
            made = make_limit(driver, registered)
            pass_over(held, late)
        assert [type(each) for each in failures] == [
            exception.RegisteredLimitError
        ]
        assert is_limit(driver, made)
        assert is_registered(driver, registered)
        assert make_limit(driver, registered)

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
