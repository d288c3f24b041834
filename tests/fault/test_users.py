# SPDX-License-Identifier: Apache-2.0
"""Users and groups under crashes, lost replies, failures and races."""

import datetime
import threading
import types
import uuid

import cassandra
import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    groups,
    identities,
    lockout,
    memberships,
    shadow_users,
)
from keystone_cassandra_token.drivers.identity import users as rows
from keystone_cassandra_token.drivers.identity.groups import GROUPS
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.drivers.identity.users import (
    FEDERATED_NAMES,
    USERS,
)
from keystone_cassandra_token.tables import unique
from tests.fault import at_once, faults
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

ATTACKERS = 8
ALLOWED = 5
NAMES = 'abc'
LABELS = ('first', 'second', 'third')
IDENTITY = {'idp_id': 'idp', 'protocol_id': 'saml2'}


def key(identity):
    """Return what an identity provider calls a user, as arguments."""
    return [identity[name] for name in identities.FEDERATED]


class Groups(World):
    """A group that is called a."""

    kinds = ('group',)

    def __init__(self, store):
        super().__init__(store)
        self.driver = identity.Identity()
        self.create('first', 'a')

    def create(self, label, name):
        values = {'name': name, 'domain_id': self.id('domain')}
        made = values | {'id': self.id(label)}
        self.driver.create_group(made['id'], made)

    @operation(exception.Conflict, makes='second')
    def create_a(self):
        self.create('second', 'a')

    @operation(exception.Conflict, makes='second')
    def create_b(self):
        self.create('second', 'b')

    @operation(exception.Conflict, makes='third')
    def another_creates_b(self):
        self.create('third', 'b')

    @operation()
    def rename_b(self):
        self.driver.update_group(self.id('first'), {'name': 'b'})

    @operation()
    def rename_c(self):
        self.driver.update_group(self.id('first'), {'name': 'c'})

    @operation()
    def describe(self):
        self.driver.update_group(self.id('first'), {'description': 'new'})

    @operation(exception.GroupNotFound)
    def delete(self):
        self.driver.delete_group(self.id('first'))

    def by_name(self, name):
        """Return the label of who has a name, or None."""
        get, domain = self.driver.get_group_by_name, self.id('domain')
        has = found(get, name, domain)
        return has and self.labels([has['id']])[0]

    def state(self):
        domain = self.id('domain')
        seen = {name: self.by_name(name) for name in NAMES}
        seen['listed'] = self.listed(GROUPS.entity, groups.BY_DOMAIN, domain)
        for label in LABELS:
            group = found(self.driver.get_group, self.id(label))
            seen[label] = group and (group['name'], group.get('description'))
        return seen

    def wrong(self):
        domain = self.id('domain')
        keys = {name: groups.key(self.store, domain, name) for name in NAMES}
        return wrong_names(self, GROUPS.entity, GROUPS, keys, LABELS)

    def left(self):
        return ghosts(self, GROUPS.entity, LABELS)

    def probe(self):
        return [
            f'{name} is {self.by_name(name)}, and who wants it told {said}'
            for name in NAMES
            if not fits(said := self.take(name), self.by_name(name))
        ]

    def take(self, name):
        """Return what somebody is told who wants a name, and goes again."""
        said = told(self.create, 'probe', name)
        if said == DONE:
            self.driver.delete_group(self.id('probe'))
        return said


def fits(said, owner):
    return said == ('Conflict' if owner else DONE)


class TestGroups(Generated):
    world = Groups


class Users(World):
    """A user that is called a, in the group h, and not in the group g."""

    kinds = ('user', 'membership_by_user')

    def __init__(self, store):
        super().__init__(store)
        self.driver = identity.Identity()
        self.shadows = shadow_users.ShadowUsers()
        self.create('first', 'a')
        for name in 'gh':
            group = {'id': self.id(name), 'name': name}
            self.driver.create_group(
                group['id'], group | {'domain_id': self.id('domain')}
            )
        self.driver.add_user_to_group(self.id('first'), self.id('h'))

    def create(self, label, name):
        values = {'name': name, 'domain_id': self.id('domain')}
        made = values | {'id': self.id(label), 'enabled': True}
        password = {'password': 'right'} if label == 'second' else {}
        self.driver.create_user(made['id'], made | password)

    @operation(exception.Conflict, makes='second')
    def create_a(self):
        self.create('second', 'a')

    @operation(exception.Conflict, makes='second')
    def create_b(self):
        self.create('second', 'b')

    @operation(exception.Conflict, makes='third')
    def another_creates_b(self):
        self.create('third', 'b')

    @operation(exception.Conflict)
    def create_again(self):
        """As an id that is computed comes back."""
        self.create('first', 'a')

    @operation()
    def rename_b(self):
        self.driver.update_user(self.id('first'), {'name': 'b'})

    @operation()
    def rename_c(self):
        self.driver.update_user(self.id('first'), {'name': 'c'})

    @operation()
    def tell_address(self):
        self.driver.update_user(self.id('first'), {'email': 'new'})

    @operation()
    def disable(self):
        self.driver.update_user(self.id('first'), {'enabled': False})

    @operation(exception.UserNotFound, partly=['groups', 'h'])
    def delete(self):
        self.driver.delete_user(self.id('first'))

    @operation()
    def join_g(self):
        self.driver.add_user_to_group(self.id('first'), self.id('g'))

    @operation(exception.NotFound)
    def leave_h(self):
        self.driver.remove_user_from_group(self.id('first'), self.id('h'))

    @operation(exception.GroupNotFound)
    def delete_g(self):
        self.driver.delete_group(self.id('g'))

    @operation(exception.GroupNotFound)
    def delete_h(self):
        self.driver.delete_group(self.id('h'))

    @operation(exception.Conflict)
    def federate(self):
        self.shadows.create_federated_object(
            self.identity | {'user_id': self.id('first')}
        )

    @property
    def identity(self):
        return IDENTITY | {
            'unique_id': self.id('unique'),
            'display_name': 'shown',
        }

    def by_name(self, name):
        """Return the label of who has a name, or None."""
        get, domain = self.driver.get_user_by_name, self.id('domain')
        has = found(get, name, domain)
        return has and self.labels([has['id']])[0]

    def state(self):
        seen = {name: self.by_name(name) for name in NAMES}
        seen['listed'] = self.listed(
            USERS.entity, rows.BY_DOMAIN, self.id('domain')
        )
        for label in LABELS:
            user = found(self.driver.get_user, self.id(label))
            seen[label] = user and (
                user['name'],
                user['enabled'],
                user.get('email'),
            )
            if user and label == 'second':
                self.driver.authenticate(user['id'], 'right')
        in_groups = found(
            self.driver.list_groups_for_user, self.id('first'), Hints()
        )
        seen['groups'] = self.labels(each['id'] for each in in_groups or ())
        for name in 'gh':
            has = found(
                self.driver.list_users_in_group, self.id(name), Hints()
            )
            seen[name] = has and self.labels(each['id'] for each in has)
        known = found(self.shadows.get_federated_user, *key(self.identity))
        seen['federated'] = known and self.labels([known['id']])
        return seen

    def wrong(self):
        domain, store = self.id('domain'), self.store
        keys = {name: rows.name_key(store, domain, name) for name in NAMES}
        return wrong_names(self, USERS.entity, USERS, keys, LABELS)

    def left(self):
        user_id = self.id('first')
        in_groups = self.labels(
            each['group_id'] for each in MEMBERSHIPS.of(self.store, user_id)
        )
        gone = USERS.entity.find(self.store, user_id) is None
        return ghosts(self, USERS.entity, LABELS) + [
            f'a membership in {name}'
            for name in in_groups
            if gone or GROUPS.entity.find(self.store, self.id(name)) is None
        ]

    def probe(self):
        wrong = [
            f'{name} is {self.by_name(name)}, and who wants it told {said}'
            for name in NAMES
            if not fits(said := self.take(name), self.by_name(name))
        ]
        if told(self.create, 'first', 'd') == DONE:
            # Whatever a deletion that died has left.
            in_groups = self.driver.list_groups_for_user(
                self.id('first'), Hints()
            )
            if in_groups:
                wrong.append('who comes back is in a group')
            self.driver.delete_user(self.id('first'))
        return wrong

    def take(self, name):
        """Return what somebody is told who wants a name, and goes again."""
        said = told(self.create, 'probe', name)
        if said == DONE:
            self.driver.delete_user(self.id('probe'))
        return said


class TestUsers(Generated):
    world = Users


class Generator:
    """Ids are computed from what an identity provider calls a user."""

    def generate_public_ID(self, mapping):  # noqa: N802
        return uuid.uuid5(uuid.NAMESPACE_OID, str(mapping)).hex


@pytest.fixture
def computed_ids(monkeypatch):
    apis = types.SimpleNamespace(id_generator_api=Generator())
    monkeypatch.setattr(
        shadow_users, 'provider_api', types.SimpleNamespace(ProviderAPIs=apis)
    )


class FederatedUsers(World):
    """A user in a group, whom an identity provider knows."""

    kinds = ('user', 'membership_by_user')

    def __init__(self, store):
        super().__init__(store)
        self.driver = identity.Identity()
        self.shadows = shadow_users.ShadowUsers()
        group = {'id': self.id('group'), 'domain_id': self.id('domain')}
        self.driver.create_group(group['id'], group | {'name': 'group'})
        self.come('first')
        self.driver.add_user_to_group(self.id('first'), self.id('group'))

    def identity(self, label):
        return IDENTITY | {
            'unique_id': self.id(f'unique {label}'),
            'display_name': 'shown',
        }

    def come(self, label):
        """Log in, as Keystone does it: who is not known is new."""
        each = self.identity(label)
        self.name(label, self.computed(label))
        if found(self.shadows.get_federated_user, *key(each)) is None:
            self.shadows.create_federated_user(self.id('domain'), each)

    def computed(self, label):
        return Generator().generate_public_ID(
            {
                'domain_id': self.id('domain'),
                'local_id': self.identity(label)['unique_id'],
                'entity_type': 'user',
            }
        )

    def add(self, label):
        self.shadows.create_federated_object(
            self.identity(label) | {'user_id': self.id('first')}
        )

    @operation(exception.Conflict)
    def come_again(self):
        self.come('first')

    @operation(exception.Conflict)
    def another_comes(self):
        self.come('second')

    @operation(exception.Conflict)
    def add_anothers(self):
        self.add('second')

    @operation(exception.Conflict)
    def add_third(self):
        self.add('third')

    @operation(exception.Conflict)
    def add_again(self):
        self.add('first')

    @operation(exception.NotFound)
    def forget(self):
        self.shadows.delete_federated_object(self.id('first'))

    @operation(exception.UserNotFound, partly=['groups', 'members'])
    def delete(self):
        self.driver.delete_user(self.id('first'))

    def state(self):
        seen = {}
        for label in LABELS:
            has = found(
                self.shadows.get_federated_user, *key(self.identity(label))
            )
            seen[label] = has and (self.labels([has['id']]), has['name'])
        objects = found(self.shadows.get_federated_objects, self.id('first'))
        seen['objects'] = sum(len(each['protocols']) for each in objects or ())
        in_groups = found(
            self.driver.list_groups_for_user, self.id('first'), Hints()
        )
        seen['groups'] = self.labels(each['id'] for each in in_groups or ())
        members = self.driver.list_users_in_group(self.id('group'), Hints())
        seen['members'] = self.labels(each['id'] for each in members)
        return seen

    def wrong(self):
        keys = {
            label: identities.key(self.identity(label)) for label in LABELS
        }
        return wrong_names(self, USERS.entity, FEDERATED_NAMES, keys, LABELS)

    def left(self):
        return ghosts(self, USERS.entity, LABELS)

    def probe(self):
        """Whatever a deletion that died has left, who comes back is in no
        group."""
        if USERS.entity.find(self.store, self.id('first')):
            return []
        self.come('first')
        in_groups = self.driver.list_groups_for_user(self.id('first'), Hints())
        self.driver.delete_user(self.id('first'))
        return ['who comes back is in a group'] if in_groups else []


@pytest.mark.usefixtures('computed_ids')
class TestFederatedUsers(Generated):
    world = FederatedUsers


@pytest.fixture(autouse=True)
def cheap_hashes(conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def driver(store):
    return identity.Identity()


@pytest.fixture
def impatient(monkeypatch):
    """Let a claim of a process that died be taken over at once."""
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))


@pytest.fixture
def comply(conf):
    """A function that sets a security compliance option for the test."""
    names = []

    def set_option(name, value):
        conf.set_override(name, value, 'security_compliance')
        names.append(name)

    yield set_option
    for name in names:
        conf.clear_override(name, 'security_compliance')


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': uuid.uuid4().hex,
        'enabled': True,
        'password': 'right',
        **more,
    }


def owner(store, made):
    """Return who has the claim of a user's name."""
    key = rows.name_key(store, made['domain_id'], made['name'])
    return store.one(USERS.claims.settle, USERS.claims.row, **key)['owner']


def create(driver, made):
    driver.create_user(made['id'], made)


def make(driver, **more):
    made = new(**more)
    create(driver, made)
    return made


def again(made):
    """Return another user of the same name."""
    return made | {'id': uuid.uuid4().hex}


def named(driver, domain_id, name):
    """Return the id of who is called so, in all ways of asking, or None."""
    try:
        found = driver.get_user_by_name(name, domain_id)['id']
    except exception.UserNotFound:
        found = None
    hints = Hints()
    hints.add_filter('domain_id', domain_id)
    hints.add_filter('name', name)
    listed = [each['id'] for each in driver.list_users(hints)]
    assert listed == ([found] if found else [])
    return found


def attack(start, results, user_id):
    """Try wrong passwords until the account is locked; say how many."""
    driver = identity.Identity()
    driver.get_user(user_id)  # connects
    start.wait(60)
    tried = 0
    try:
        while tried < 10 * ALLOWED:
            try:
                driver.authenticate(user_id, 'wrong')
            except AssertionError:
                tried += 1
        results.put('never locked')
    except exception.AccountLocked:
        results.put(tried)
    except BaseException as error:
        results.put(repr(error))


def test_eight_attackers_get_no_more_than_the_bound(driver, comply):
    """Those allowed, and one for each that is being checked meanwhile."""
    comply('lockout_failure_attempts', ALLOWED)
    for _ in range(3):
        made = make(driver)
        tried = at_once.run(attack, (made['id'],), ATTACKERS)
        assert all(isinstance(each, int) for each in tried), tried
        assert ALLOWED <= sum(tried) <= ALLOWED + ATTACKERS - 1
        with pytest.raises(exception.AccountLocked):
            driver.authenticate(made['id'], 'right')
        comply('lockout_failure_attempts', 10 * ALLOWED)
        user = USERS.entity.find(driver.db, made['id'])
        assert len(lockout.failed_at(driver.db, user)) == sum(tried)
        comply('lockout_failure_attempts', ALLOWED)


def test_a_deletion_that_lost_and_got_no_answer_is_done_again(driver, store):
    made = make(driver)
    lost = []

    def action(statements, send):
        if USERS.entity.bury in statements and not lost:
            lost.append(statements)
            driver.update_user(made['id'], {'password': 'other'})
            raise cassandra.OperationTimedOut
        return send()

    with faults.intercepted(store, action):
        driver.delete_user(made['id'])
    assert lost
    with pytest.raises(exception.UserNotFound):
        driver.get_user(made['id'])
    create(driver, again(made))


def test_a_deletion_that_comes_second_keeps_no_name(driver, store, impatient):
    made = make(driver)

    def delete():
        driver.delete_user(made['id'])

    # The first one cannot free the name.
    with (
        faults.stalled(store, USERS.entity.bury, delete) as late,
        faults.fail(store, USERS.claims.free, times=2),
    ):
        delete()
    assert isinstance(late.said, exception.UserNotFound)
    create(driver, again(made))


def test_a_failure_that_comes_late_makes_no_user(driver, store, comply):
    comply('lockout_failure_attempts', 9)
    made = make(driver)
    with faults.stalled(
        store,
        lockout.FAIL_FOR_A_WHILE,
        lambda: driver.authenticate(made['id'], 'wrong'),
    ) as late:
        driver.delete_user(made['id'])
    assert isinstance(late.said, AssertionError)
    with pytest.raises(exception.UserNotFound):
        driver.get_user(made['id'])
    assert made['id'] not in {
        each['id'] for each in driver.list_users(Hints())
    }
    # And is no obstacle to another life of this id.
    create(driver, made)
    assert driver.authenticate(made['id'], 'right')['id'] == made['id']


def test_of_two_passwords_at_once_both_are_in_the_history(
    driver, store, comply
):
    comply('unique_last_password_count', 3)
    made = make(driver)
    with faults.stalled(
        store,
        USERS.entity.update,
        lambda: driver.update_user(made['id'], {'password': 'late'}),
    ):
        driver.update_user(made['id'], {'password': 'early'})
    assert driver.authenticate(made['id'], 'late')
    for former in ('right', 'early', 'late'):
        with pytest.raises(exception.PasswordHistoryValidationError):
            driver.change_password(made['id'], former)


class TestTakeOver:
    """A name's claim is pending for longer than a minute.

    Whoever is slow then must find out who has the name, and never do two.
    """

    @pytest.fixture
    def later(self, monkeypatch):
        """A function that lets the rest happen some seconds later."""
        real = clock.utcnow

        def go_on(time):
            monkeypatch.setattr(clock, 'utcnow', lambda: real() + time)

        return go_on

    @pytest.fixture
    def stall(self, driver, store):
        """Creation of a user that waits at a statement."""
        return lambda target, made: faults.stalled(
            store, target, lambda: create(driver, made)
        )

    @pytest.fixture
    def only(self, driver, store):
        """A function that asserts that one alone is there, and so called."""

        def check(made, *others):
            domain_id = made['domain_id']
            assert owner(store, made) == made['id']
            assert named(driver, domain_id, made['name']) == made['id']
            assert rows.BY_DOMAIN.ids(store, domain_id) == [made['id']]
            assert driver.authenticate(made['id'], 'right')
            for other in others:
                with pytest.raises(exception.UserNotFound):
                    driver.get_user(other['id'])

        return check

    def test_who_is_slow_and_sees_the_fence(self, stall, later, only):
        """It makes sure of its claim, which nobody has taken yet."""
        slow = new()
        other = again(slow)
        with stall(USERS.entity.insert, slow) as late:
            later(2 * unique.STALE_AFTER)
            with stall(USERS.claims.replace, other) as taker:
                late.finish()
        assert late.said is None
        assert isinstance(taker.said, exception.Conflict)
        only(slow, other)

    def test_two_that_take_it_over(self, driver, stall, later, only):
        slow = new()
        first, second = again(slow), again(slow)
        with stall(USERS.entity.insert, slow) as late:
            later(2 * unique.STALE_AFTER)
            with stall(USERS.claims.replace, first) as beaten:
                create(driver, second)
        for each in (late, beaten):
            assert isinstance(each.said, exception.Conflict)
        only(second, slow, first)


class TestFederated:
    @pytest.fixture
    def shadows(self, driver, computed_ids):
        return shadow_users.ShadowUsers()

    def identity(self):
        return IDENTITY | {
            'unique_id': uuid.uuid4().hex,
            'display_name': 'shown',
        }

    def test_a_renewed_membership_is_no_change(self, shadows, monkeypatch):
        """Else each log-in would revoke the tokens of the one before."""
        made = shadows.create_federated_user('domain', self.identity())
        for minutes in (0, 5):  # with 0 it has expired at once
            life = datetime.timedelta(minutes=minutes)
            monkeypatch.setattr(memberships, 'lifetime', lambda _, of=life: of)
            group = uuid.uuid4().hex
            ids = made['id'], group
            assert shadows.add_user_to_group_expires(*ids) is True
            assert shadows.add_user_to_group_expires(*ids) is False
            stale = shadows.cleanup_stale_group_memberships(
                made['id'], 'idp', []
            )
            assert stale == [group]
            assert shadows.add_user_to_group_expires(*ids) is True
            shadows.cleanup_stale_group_memberships(made['id'], 'idp', [])

    def test_who_gives_up_frees_no_claim_of_another(self, shadows, store):
        """A log-in that cannot write its user, and one that comes after."""
        each = self.identity()
        fenced = []

        def create():
            return shadows.create_federated_user('domain', each)

        def action(statements, send):
            if not fenced and USERS.entity.insert in statements:
                raise cassandra.OperationTimedOut
            answer = send()
            if not fenced and USERS.entity.renumber in statements:
                answer.result()
                fenced.append(statements)
                create()
            return answer

        with (
            faults.intercepted(store, action),
            pytest.raises(exception.Conflict),
        ):
            create()
        assert fenced
        assert shadows.get_federated_user(*key(each))['name'] == 'shown'

    def test_who_is_there_stays_in_its_groups(self, driver, shadows, store):
        """Also where another log-in takes it for new."""
        each = self.identity()
        made = shadows.create_federated_user('domain', each)
        group = new()
        driver.create_group(group['id'], group)
        driver.add_user_to_group(made['id'], group['id'])
        with pytest.raises(exception.Conflict):
            shadows.create_federated_user('domain', each)
        (found,) = MEMBERSHIPS.of(store, made['id'])
        assert found['group_id'] == group['id']

    def test_two_log_ins_at_once_make_one_user(self, shadows, store):
        each = self.identity()
        outcomes = []
        start = threading.Barrier(4)

        def log_in():
            start.wait(faults.PATIENCE)
            try:
                outcomes.append(
                    shadows.create_federated_user('domain', each)['id']
                )
            except exception.Conflict:
                outcomes.append('conflict')

        threads = [threading.Thread(target=log_in) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(faults.PATIENCE)
        made = {said for said in outcomes if said != 'conflict'}
        assert len(outcomes) == 4
        assert made == {shadows.get_federated_user(*key(each))['id']}
