# SPDX-License-Identifier: Apache-2.0
"""Options of domains under crashes, lost replies and races."""

import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.resource import domain_config
from tests.fault import faults
from tests.fault.generated import Generated, World, found, operation

#: Two sets of options, of which no one is in both with one value.
FIRST = {'url': 'first', 'user': 'first', 'suffix': 'first'}
SECOND = {'url': 'second', 'user': 'second', 'password': 'second'}


@pytest.fixture
def driver(store):
    return domain_config.DomainConfig()


@pytest.fixture
def domain_id():
    return uuid.uuid4().hex


def listed(options):
    return [
        {
            'group': 'ldap',
            'option': option,
            'value': value,
            'sensitive': option == 'password',
        }
        for option, value in options.items()
    ]


def create(driver, domain_id, options):
    driver.create_config_options(domain_id, listed(options))


def update(driver, domain_id, options):
    driver.update_config_options(domain_id, listed(options))


def state(driver, domain_id):
    return {
        each['option']: each['value']
        for sensitive in (False, True)
        for each in driver.list_config_options(domain_id, sensitive=sensitive)
    }


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def replace(driver, domain_id):
    create(driver, domain_id, SECOND)


def add(driver, domain_id):
    update(driver, domain_id, SECOND)


def drop(driver, domain_id):
    driver.delete_config_options(domain_id, 'ldap', 'url')


def drop_all(driver, domain_id):
    driver.delete_config_options(domain_id)


CHANGES = [
    (replace, SECOND),
    (add, FIRST | SECOND),
    (drop, {name: FIRST[name] for name in ('user', 'suffix')}),
    (drop_all, {}),
]
each_change = pytest.mark.parametrize(
    ('change', 'expected'), CHANGES, ids=[each.__name__ for each, _ in CHANGES]
)


class Options(World):
    """A domain with some options."""

    ages = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = domain_config.DomainConfig()
        create(self.driver, self.id('domain'), FIRST)

    @operation()
    def replace(self):
        replace(self.driver, self.id('domain'))

    @operation()
    def add(self):
        add(self.driver, self.id('domain'))

    @operation()
    def add_another(self):
        update(self.driver, self.id('domain'), {'page_size': 5})

    @operation()
    def drop(self):
        drop(self.driver, self.id('domain'))

    @operation()
    def drop_all(self):
        drop_all(self.driver, self.id('domain'))

    def state(self):
        return {'options': state(self.driver, self.id('domain'))}


class TestOptions(Generated):
    world = Options


class Registrations(World):
    """What one domain alone can have, and nobody has; something else."""

    ages = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = domain_config.DomainConfig()
        self.obtain('me', 'mine')

    def obtain(self, domain, label):
        if not self.driver.obtain_registration(
            self.id(domain), self.id(label)
        ):
            raise exception.Conflict(type='registration', details='taken')

    @operation(exception.Conflict)
    def obtain_it(self):
        self.obtain('me', 'free')

    @operation(exception.Conflict)
    def another_obtains_it(self):
        self.obtain('other', 'free')

    @operation(exception.Conflict)
    def another_wants_mine(self):
        self.obtain('other', 'mine')

    @operation()
    def release_mine(self):
        self.driver.release_registration(self.id('me'), self.id('mine'))

    @operation()
    def release_all(self):
        self.driver.release_registration(self.id('me'))

    def state(self):
        owners = {
            label: found(self.driver.read_registration, self.id(label))
            for label in ('mine', 'free')
        }
        return {
            label: owner and self.labels([owner])
            for label, owner in owners.items()
        }


@each_change
def test_a_lost_reply_is_settled(driver, store, domain_id, change, expected):
    create(driver, domain_id, FIRST)
    with (
        faults.lose_reply(store, domain_config.MARK),
        faults.counted(store) as sent,
    ):
        change(driver, domain_id)
    assert state(driver, domain_id) == expected
    # It was seen that it is done, and not done again.
    assert sum(domain_config.MARK in statements for statements in sent) == 1


@each_change
def test_a_lost_reply_of_who_came_too_late(
    driver, store, domain_id, change, expected
):
    """It was not made: the serial read shows somebody else's change."""
    create(driver, domain_id, FIRST)
    late = []

    def action(statements, send):
        if domain_config.MARK in statements and not late:
            late.append(statements)
            update(driver, domain_id, {'url': 'early'})
            return faults.LostReply(send())
        return send()

    with faults.intercepted(store, action):
        change(driver, domain_id)
    assert late
    assert state(driver, domain_id) == expected


def test_what_was_not_done_is_told_where_no_mark_tells(
    driver, store, domain_id
):
    create(driver, domain_id, FIRST)
    # Two datacenters that change a domain at once can leave it so.
    found = store.one(
        domain_config.LIST_NAMES, domain_config.NAME, domain_id=domain_id
    )
    unmark = {
        'domain_id': domain_id,
        'incarnation': None,
        'seen': found['incarnation'],
    }
    assert store.cas(domain_config.MARK, **unmark)
    with (
        faults.fail(store, domain_config.MARK, times=2),
        pytest.raises(errors.OutcomeUnknown),
    ):
        drop_all(driver, domain_id)
    assert state(driver, domain_id) == FIRST
    with faults.lose_reply(store, domain_config.MARK):
        drop_all(driver, domain_id)
    assert state(driver, domain_id) == {}


def test_changes_of_different_options_all_survive(driver, domain_id):
    create(driver, domain_id, FIRST)
    names = [f'option_{number}' for number in range(12)]
    threads = [
        in_thread(lambda name=name: update(driver, domain_id, {name: name}))
        for name in names
    ]
    for thread in threads:
        thread.join(faults.PATIENCE)
    assert state(driver, domain_id) == FIRST | {n: n for n in names}


def test_no_reader_sees_a_half(driver, domain_id):
    one = {f'option_{number}': 'one' for number in range(20)}
    other = {f'option_{number}': 'other' for number in range(10, 30)}
    create(driver, domain_id, one)
    done = threading.Event()

    def alternate():
        try:
            for _ in range(20):
                create(driver, domain_id, other)
                create(driver, domain_id, one)
        finally:
            done.set()

    writer = in_thread(alternate)
    seen = []
    while not done.is_set():
        found = state(driver, domain_id)
        assert found in (one, other)
        seen.append(found['option_15'])
    writer.join(faults.PATIENCE)
    assert set(seen) == {'one', 'other'}


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides(driver, store, domain_id, seconds):
    create(driver, domain_id, FIRST)
    with faults.clock_off_by(store, seconds):
        create(driver, domain_id, SECOND)
    assert state(driver, domain_id) == SECOND
    update(driver, domain_id, {'url': 'third'})
    assert state(driver, domain_id) == SECOND | {'url': 'third'}
    with faults.clock_off_by(store, seconds):
        drop_all(driver, domain_id)
    assert state(driver, domain_id) == {}
    create(driver, domain_id, FIRST)
    assert state(driver, domain_id) == FIRST


class TestRegistrations(Generated):
    world = Registrations

    @pytest.fixture
    def type_(self):
        return uuid.uuid4().hex

    @pytest.mark.parametrize('domains', [1, 8])
    def test_of_eight_one_wins(self, driver, type_, domains):
        start = threading.Barrier(8)
        won, lost = [], []

        def obtain(domain_id):
            start.wait(faults.PATIENCE)
            if driver.obtain_registration(domain_id, type_):
                won.append(domain_id)
            else:
                lost.append(domain_id)

        threads = [
            in_thread(lambda number=number: obtain(f'{number % domains}'))
            for number in range(8)
        ]
        for thread in threads:
            thread.join(faults.PATIENCE)
        assert (len(won), len(lost)) == (1, 7)
        assert driver.read_registration(type_) == won[0]

    @pytest.mark.parametrize('owner', [None, 'me', 'other'])
    def test_a_lost_reply_of_who_obtains(self, driver, store, type_, owner):
        if owner:
            assert driver.obtain_registration(owner, type_)
        with faults.lose_reply(store, domain_config.REGISTER):
            assert driver.obtain_registration('me', type_) is (owner is None)
        assert driver.read_registration(type_) == (owner or 'me')

    @pytest.mark.parametrize('named', [True, False])
    def test_nobody_releases_anothers(self, driver, store, type_, named):
        """Also where it has become another's since it was looked for."""
        driver.obtain_registration('me', type_)
        with faults.hold(store, domain_config.RELEASE) as held:
            late = in_thread(
                lambda: driver.release_registration(
                    'me', type_ if named else None
                )
            )
            assert held.reached.wait(faults.PATIENCE)
            driver.release_registration('me', type_)
            driver.obtain_registration('other', type_)
            held.release()
            late.join(faults.PATIENCE)
        assert driver.read_registration(type_) == 'other'

    def test_without_a_type_all_go(self, driver):
        types = [uuid.uuid4().hex for _ in range(3)]
        domain_id = uuid.uuid4().hex
        for each in types[:2]:
            driver.obtain_registration(domain_id, each)
        driver.obtain_registration('other', types[2])
        driver.release_registration(domain_id)
        for each in types[:2]:
            with pytest.raises(exception.ConfigRegistrationNotFound):
                driver.read_registration(each)
        assert driver.read_registration(types[2]) == 'other'

    @pytest.mark.parametrize('seconds', [-5, 5])
    def test_no_clock_decides(self, driver, store, type_, seconds):
        with faults.clock_off_by(store, seconds):
            assert driver.obtain_registration('me', type_)
        driver.release_registration('me', type_)
        assert driver.obtain_registration('other', type_)
        with faults.clock_off_by(store, seconds):
            driver.release_registration('other', type_)
        assert driver.obtain_registration('me', type_)
        assert driver.read_registration(type_) == 'me'
