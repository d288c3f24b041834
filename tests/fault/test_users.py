# SPDX-License-Identifier: Apache-2.0
"""Users and groups under crashes, lost replies and races."""

import contextlib
import datetime
import threading
import types
import uuid

import cassandra
import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    groups,
    memberships,
    shadow_users,
)
from keystone_cassandra_token.drivers.identity import users as rows
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.drivers.identity.users import (
    FEDERATED_NAMES,
    USERS,
)
from keystone_cassandra_token.tables import unique
from tests.fault import at_once, faults

ATTACKERS = 8
ALLOWED = 5
AGE = unique.STALE_AFTER


@pytest.fixture
def driver(store, conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield identity.Identity()
    conf.clear_override('password_hash_rounds', 'identity')


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


def claim(store, made):
    """Return who has a user's name, and in which state."""
    key = rows.name_key(store, made['domain_id'], made['name'])
    found = store.one(USERS.claims.settle, USERS.claims.row, **key)
    return found['owner'], found['state']


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


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    def test_create(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store, new, lambda made: create(driver, made)
        ):
            there = named(driver, made['domain_id'], made['name'])
            outcomes.append(there is not None)
            other = again(made)
            if there:
                assert driver.authenticate(made['id'], 'right')
                with pytest.raises(exception.Conflict):
                    create(driver, other)
            else:
                with pytest.raises(exception.UserNotFound):
                    driver.get_user(made['id'])
                create(driver, other)
                assert driver.authenticate(other['id'], 'right')
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_rename(self, driver, store):
        def prepare():
            made = make(driver)
            return made, uuid.uuid4().hex

        outcomes = []
        for _, (made, name) in faults.each_crash(
            store,
            prepare,
            lambda each: driver.update_user(each[0]['id'], {'name': each[1]}),
        ):
            domain_id = made['domain_id']
            before = named(driver, domain_id, made['name'])
            after = named(driver, domain_id, name)
            assert {before, after} == {made['id'], None}
            outcomes.append(after is not None)
            # Nobody else gets the name that it has; a retry succeeds.
            has = name if after else made['name']
            with pytest.raises(exception.Conflict):
                make(driver, name=has, domain_id=domain_id)
            driver.update_user(made['id'], {'name': name})
            assert named(driver, domain_id, name) == made['id']
            # And the name that it had is free.
            make(driver, name=made['name'], domain_id=domain_id)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete(self, driver, store):
        group = new()
        driver.create_group(group['id'], group)

        def prepare():
            made = make(driver)
            driver.add_user_to_group(made['id'], group['id'])
            return made

        outcomes = []
        for _, made in faults.each_crash(
            store, prepare, lambda each: driver.delete_user(each['id'])
        ):
            there = named(driver, made['domain_id'], made['name'])
            outcomes.append(there is not None)
            members = {
                each['id']
                for each in driver.list_users_in_group(group['id'], Hints())
            }
            assert (made['id'] in members) <= (there is not None)
            with contextlib.suppress(exception.UserNotFound):
                driver.delete_user(made['id'])
            with pytest.raises(exception.UserNotFound):
                driver.get_user(made['id'])
            other = again(made)
            create(driver, other)
            driver.delete_user(other['id'])
            create(driver, made)  # as an id that is computed
            assert driver.list_groups_for_user(made['id'], Hints()) == []
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    def test_join_and_leave(self, driver, store):
        made, group = make(driver), new()
        driver.create_group(group['id'], group)
        ids = made['id'], group['id']

        def state():
            listed = bool(driver.list_users_in_group(ids[1], Hints()))
            assert bool(driver.list_groups_for_user(ids[0], Hints())) is listed
            return listed

        for _, _ in faults.each_crash(
            store, lambda: None, lambda _: driver.add_user_to_group(*ids)
        ):
            state()
            driver.add_user_to_group(*ids)
            assert state()
            driver.remove_user_from_group(*ids)
            assert not state()
        for _, _ in faults.each_crash(
            store,
            lambda: driver.add_user_to_group(*ids),
            lambda _: driver.remove_user_from_group(*ids),
        ):
            if state():
                driver.remove_user_from_group(*ids)
            assert not state()


@pytest.mark.parametrize(
    'target',
    [
        USERS.claims.insert,
        USERS.entity.insert,
        USERS.claims.set_held,
    ],
)
def test_a_lost_reply_of_a_creation_is_settled(driver, store, target):
    made = new()
    with faults.lose_reply(store, target):
        create(driver, made)
    assert named(driver, made['domain_id'], made['name']) == made['id']


@pytest.mark.parametrize(
    'target',
    [
        USERS.claims.set_pending,
        USERS.claims.insert,
        USERS.entity.update,
        USERS.claims.set_held,
        USERS.claims.free_pending,
    ],
)
def test_a_lost_reply_of_a_rename_is_settled(driver, store, target, impatient):
    made = make(driver)
    with faults.lose_reply(store, target):
        driver.update_user(made['id'], {'name': 'other'})
    assert named(driver, made['domain_id'], 'other') == made['id']
    make(driver, name=made['name'], domain_id=made['domain_id'])


@pytest.mark.parametrize(
    'target',
    [
        USERS.claims.set_pending,
        USERS.entity.delete,
        USERS.claims.free_pending,
        MEMBERSHIPS.delete,
    ],
)
def test_a_lost_reply_of_a_deletion_is_settled(driver, store, target):
    made, group = make(driver), new()
    driver.create_group(group['id'], group)
    driver.add_user_to_group(made['id'], group['id'])
    with faults.lose_reply(store, target):
        driver.delete_user(made['id'])
    with pytest.raises(exception.UserNotFound):
        driver.get_user(made['id'])
    assert not driver.list_users_in_group(group['id'], Hints())
    make(driver, name=made['name'], domain_id=made['domain_id'])


@pytest.mark.parametrize('statement', ['insert', 'delete'])
def test_a_lost_reply_of_a_membership_is_settled(driver, store, statement):
    made, group = make(driver), new()
    driver.create_group(group['id'], group)
    ids = made['id'], group['id']
    if statement == 'delete':
        driver.add_user_to_group(*ids)
    with faults.lose_reply(store, getattr(MEMBERSHIPS, statement)):
        if statement == 'insert':
            driver.add_user_to_group(*ids)
        else:
            driver.remove_user_from_group(*ids)
    found = driver.list_groups_for_user(made['id'], Hints())
    assert bool(found) is (statement == 'insert')


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
        found = USERS.entity.find(driver.db, made['id'])
        assert len(found['failures']) == sum(tried)


def test_an_update_never_brings_a_deleted_user_back(driver, store, keyspace):
    made = make(driver)
    with faults.stalled(
        store,
        USERS.entity.update,
        lambda: driver.update_user(made['id'], {'email': 'late'}),
    ) as late:
        driver.delete_user(made['id'])
    assert isinstance(late.said, exception.UserNotFound)
    session = store.sessions.get().session
    assert not session.execute(
        f'SELECT id FROM {keyspace}."user" WHERE id = %s', (made['id'],)
    ).one()


def test_an_update_never_enables_who_was_disabled_meanwhile(driver, store):
    """A log-in by an identity provider that tells of an address is one."""
    made = make(driver)
    with faults.stalled(
        store,
        USERS.entity.update,
        lambda: driver.update_user(made['id'], {'email': 'late'}),
    ) as late:
        driver.update_user(made['id'], {'enabled': False})
    assert late.said['email'] == 'late'
    found = driver.get_user(made['id'])
    assert (found['enabled'], found['email']) == (False, 'late')


@pytest.mark.parametrize('gone', ['user', 'group'])
def test_no_membership_outlives_its_user_or_group(driver, store, gone):
    made, group = make(driver), new()
    driver.create_group(group['id'], group)
    ids = made['id'], group['id']
    with faults.stalled(
        store, MEMBERSHIPS.insert, lambda: driver.add_user_to_group(*ids)
    ) as late:
        getattr(driver, f'delete_{gone}')(ids[gone == 'group'])
    assert isinstance(late.said, exception.NotFound)
    assert MEMBERSHIPS.of(store, made['id']) == []


def test_a_membership_that_comes_during_a_deletion_goes_too(driver, store):
    made, group = make(driver), new()
    driver.create_group(group['id'], group)
    with faults.stalled(
        store, USERS.entity.delete, lambda: driver.delete_user(made['id'])
    ) as late:
        driver.add_user_to_group(made['id'], group['id'])
    assert late.said is None
    assert MEMBERSHIPS.of(store, made['id']) == []


def test_a_deletion_that_lost_and_got_no_answer_is_done_again(driver, store):
    made = make(driver)
    lost = []

    def action(statements, send):
        if USERS.entity.delete in statements and not lost:
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

    # The first one dies before it has freed the name.
    with (
        faults.stalled(store, USERS.entity.delete, delete) as late,
        faults.fail(store, USERS.claims.free_pending),
        pytest.raises(errors.StoreUnavailable),
    ):
        delete()
    assert isinstance(late.said, exception.UserNotFound)
    create(driver, again(made))


def test_of_two_equal_renames_neither_is_undone(driver, store):
    made = make(driver)

    def rename():
        driver.update_user(made['id'], {'name': 'other'})

    with (
        faults.counted(store) as sent,
        faults.stalled(store, USERS.claims.set_pending, rename) as late,
    ):
        rename()
    assert late.said is None
    assert named(driver, made['domain_id'], 'other') == made['id']
    assert sent.count((USERS.entity.update,)) == 2


def test_a_failure_that_comes_late_makes_no_user(driver, store, comply):
    comply('lockout_failure_attempts', 9)
    made = make(driver)
    with faults.stalled(
        store,
        identity.FAIL,
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


def test_of_two_renames_at_once_no_name_is_left_over(driver, store, impatient):
    made = make(driver)
    with faults.stalled(
        store,
        USERS.entity.update,
        lambda: driver.update_user(made['id'], {'name': 'late'}),
    ):
        driver.update_user(made['id'], {'name': 'early'})
    domain_id = made['domain_id']
    assert named(driver, domain_id, 'late') == made['id']
    for name in (made['name'], 'early'):
        assert named(driver, domain_id, name) is None
        make(driver, name=name, domain_id=domain_id)


def test_a_refused_rename_keeps_the_name(driver, store):
    made = make(driver)
    other = make(driver, domain_id=made['domain_id'])
    with pytest.raises(exception.Conflict):
        driver.update_user(made['id'], {'name': other['name']})
    for each in (made, other):
        assert named(driver, each['domain_id'], each['name']) == each['id']
        assert claim(store, each) == (each['id'], unique.HELD)


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
            assert claim(store, made) == (made['id'], unique.HELD)
            assert named(driver, domain_id, made['name']) == made['id']
            assert rows.BY_DOMAIN.ids(store, domain_id) == [made['id']]
            assert driver.authenticate(made['id'], 'right')
            for other in others:
                with pytest.raises(exception.UserNotFound):
                    driver.get_user(other['id'])

        return check

    def test_before_the_user_is_written(self, driver, stall, later, only):
        slow = new()
        other = again(slow)
        with stall(USERS.entity.insert, slow) as late:
            later(AGE / 2)
            with pytest.raises(exception.Conflict):
                create(driver, other)  # it may be merely slow
            later(2 * AGE)
            create(driver, other)
        assert isinstance(late.said, exception.Conflict)
        only(other, slow)

    def test_after_the_user_is_written(self, driver, stall, later, only):
        slow = new()
        other = again(slow)
        with stall(USERS.claims.set_held, slow) as late:
            later(2 * AGE)
            with pytest.raises(exception.Conflict):
                create(driver, other)
        assert late.said is None
        only(slow, other)

    def test_while_somebody_looks_for_the_user(self, stall, later, only):
        slow = new()
        other = again(slow)
        with stall(USERS.entity.insert, slow) as late:
            later(2 * AGE)
            with stall(USERS.claims.take_over, other) as taker:
                late.finish()
        assert late.said is None
        assert isinstance(taker.said, exception.Conflict)
        only(slow, other)

    def test_two_that_take_it_over(self, driver, stall, later, only):
        slow = new()
        first, second = again(slow), again(slow)
        with stall(USERS.entity.insert, slow) as late:
            later(2 * AGE)
            with stall(USERS.claims.take_over, first) as beaten:
                with stall(USERS.claims.set_held, second) as winner:
                    beaten.finish()
                assert winner.said is None
        for each in (late, beaten):
            assert isinstance(each.said, exception.Conflict)
        only(second, slow, first)

    def test_a_renaming_that_stalls(self, driver, store, later, only):
        """Gets its former name back, which nobody else could take."""
        made = make(driver)
        other = new(domain_id=made['domain_id'])
        rename = {'name': other['name']}
        with faults.stalled(
            store,
            USERS.entity.update,
            lambda: driver.update_user(made['id'], rename),
        ) as late:
            later(2 * AGE)
            create(driver, other)
            with pytest.raises(exception.Conflict):
                create(driver, again(made))
        assert isinstance(late.said, exception.Conflict)
        for each in (made, other):
            assert claim(store, each) == (each['id'], unique.HELD)
            assert named(driver, each['domain_id'], each['name']) == each['id']


def test_group_names_are_claims_too(driver, store):
    group = new()
    driver.create_group(group['id'], group)
    with pytest.raises(exception.Conflict):
        driver.create_group(uuid.uuid4().hex, group | {'id': uuid.uuid4().hex})
    with faults.lose_reply(store, groups.GROUPS.entity.update):
        driver.update_group(group['id'], {'name': 'other'})
    found = driver.get_group_by_name('other', group['domain_id'])
    assert found['id'] == group['id']


class TestFederated:
    IDENTITY = {'idp_id': 'idp', 'protocol_id': 'saml2'}

    @pytest.fixture
    def shadows(self, driver, monkeypatch):
        # Ids are computed from what an identity provider calls a user.
        apis = types.SimpleNamespace(id_generator_api=Generator())
        monkeypatch.setattr(
            shadow_users,
            'provider_api',
            types.SimpleNamespace(ProviderAPIs=apis),
        )
        return shadow_users.ShadowUsers()

    def identity(self):
        return self.IDENTITY | {
            'unique_id': uuid.uuid4().hex,
            'display_name': 'shown',
        }

    def key(self, identity):
        return [identity[name] for name in rows.FEDERATED]

    def test_crashes(self, shadows, store, impatient):
        for _, each in faults.each_crash(
            store,
            self.identity,
            lambda each: shadows.create_federated_user('domain', each),
        ):
            try:
                found = shadows.get_federated_user(*self.key(each))
            except exception.UserNotFound:
                found = shadows.create_federated_user('domain', each)
            assert found['name'] == 'shown'
            assert shadows.get_federated_user(*self.key(each)) == found

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

    def test_who_comes_second_frees_no_claim(self, shadows, store):
        """The claim that it made first is the other one's by now."""
        each = self.identity()

        def create():
            return shadows.create_federated_user('domain', each)

        with faults.stalled(store, USERS.entity.insert, create) as late:
            made = create()
        assert isinstance(late.said, exception.Conflict)
        assert shadows.get_federated_user(*self.key(each)) == made

    def test_who_undoes_frees_no_claim_of_another(self, shadows, store):
        """A log-in that cannot hold its claim, and one that comes after."""
        each = self.identity()
        undone = []

        def create():
            return shadows.create_federated_user('domain', each)

        def action(statements, send):
            if not undone and FEDERATED_NAMES.set_held in statements:
                raise cassandra.OperationTimedOut
            answer = send()
            if not undone and USERS.entity.delete in statements:
                answer.result()
                undone.append(statements)
                create()
            return answer

        with (
            faults.intercepted(store, action),
            pytest.raises(errors.StoreUnavailable),
        ):
            create()
        assert undone
        assert shadows.get_federated_user(*self.key(each))['name'] == 'shown'

    def test_who_comes_back_is_in_no_group(self, driver, shadows, store):
        """Whatever a deletion that died has left."""
        each = self.identity()
        group = new()
        driver.create_group(group['id'], group)

        def prepare():
            made = shadows.create_federated_user('domain', each)
            driver.add_user_to_group(made['id'], group['id'])
            return made

        for _, made in faults.each_crash(
            store, prepare, lambda made: driver.delete_user(made['id'])
        ):
            try:
                driver.get_user(made['id'])
                driver.delete_user(made['id'])
            except exception.UserNotFound:
                # As if what the user was in had been left.
                MEMBERSHIPS.add(
                    store, user_id=made['id'], group_id=group['id']
                )
            made = shadows.create_federated_user('domain', each)
            assert driver.list_groups_for_user(made['id'], Hints()) == []
            driver.delete_user(made['id'])

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

    def test_crashes_while_an_identity_is_added(self, shadows, store):
        made = shadows.create_federated_user('domain', self.identity())
        wanted = []

        def prepare():
            wanted.append(self.identity() | {'user_id': made['id']})
            return wanted[-1]

        for _, each in faults.each_crash(
            store, prepare, shadows.create_federated_object
        ):
            with contextlib.suppress(exception.Conflict):
                shadows.create_federated_object(each)
            found = shadows.get_federated_user(*self.key(each))
            assert found['id'] == made['id']
        self.has(shadows, made, 1 + len(wanted))

    def test_an_identity_added_twice_at_once(self, shadows, store):
        """Is there once, and is not taken away by who comes second."""
        made = shadows.create_federated_user('domain', self.identity())
        wanted = self.identity() | {'user_id': made['id']}

        def add():
            shadows.create_federated_object(wanted)

        with faults.stalled(store, USERS.entity.update, add) as late:
            add()
        assert isinstance(late.said, exception.Conflict)
        with pytest.raises(exception.Conflict):
            add()
        found = shadows.get_federated_user(*self.key(wanted))
        assert found['id'] == made['id']
        self.has(shadows, made, 2)

    @pytest.mark.parametrize(
        'late', ['delete_user', 'delete_federated_object']
    )
    def test_who_frees_late_frees_no_name_that_came_back(
        self, shadows, store, late
    ):
        """The id is computed from the name, so both can be there again."""
        each = self.identity()
        made = shadows.create_federated_user('domain', each)
        other = shadows.create_federated_user('domain', self.identity())
        with faults.stalled(
            store,
            FEDERATED_NAMES.free_pending,
            lambda: getattr(shadows, late)(made['id']),
        ) as slow:
            if late == 'delete_user':
                shadows.create_federated_user('domain', each)
            else:
                shadows.create_federated_object(each | {'user_id': made['id']})
        assert slow.said is None
        with pytest.raises(exception.Conflict):
            shadows.create_federated_object(each | {'user_id': other['id']})
        found = shadows.get_federated_user(*self.key(each))
        assert found['id'] == made['id']

    def has(self, shadows, made, count):
        (found,) = shadows.get_federated_objects(made['id'])
        assert len(found['protocols']) == count

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
        assert made == {shadows.get_federated_user(*self.key(each))['id']}


class Generator:
    def generate_public_ID(self, mapping):  # noqa: N802
        return uuid.uuid5(uuid.NAMESPACE_OID, str(mapping)).hex
