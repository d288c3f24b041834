# SPDX-License-Identifier: Apache-2.0
"""Users and groups under crashes, lost replies and races."""

import datetime
import multiprocessing
import threading
import types
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token import errors, groups, memberships, uniqueness
from keystone_cassandra_token import users as rows
from keystone_cassandra_token.drivers import identity, shadow_users
from keystone_cassandra_token.users import USERS
from tests.fault import faults

ATTACKERS = 8
ALLOWED = 5
CREATORS = 16

# Forked after first use of the session: each child must open its own.
processes = multiprocessing.get_context('fork')


@pytest.fixture
def driver(store, conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield identity.Identity()
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def impatient(monkeypatch):
    """Let a claim of a process that died be taken over at once."""
    monkeypatch.setattr(uniqueness, 'STALE_AFTER', datetime.timedelta(0))


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': uuid.uuid4().hex,
        'enabled': True,
        'password': 'right',
        **more,
    }


def create(driver, made):
    driver.create_user(made['id'], made)


def make(driver, **more):
    made = new(**more)
    create(driver, made)
    return made


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
            again = made | {'id': uuid.uuid4().hex}
            if there:
                assert driver.authenticate(made['id'], 'right')
                with pytest.raises(exception.Conflict):
                    create(driver, again)
            else:
                with pytest.raises(exception.UserNotFound):
                    driver.get_user(made['id'])
                create(driver, again)
                assert driver.authenticate(again['id'], 'right')
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
            if there:
                driver.delete_user(made['id'])
            with pytest.raises(exception.UserNotFound):
                driver.get_user(made['id'])
            make(driver, name=made['name'], domain_id=made['domain_id'])
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
        USERS.claims.free,
    ],
)
def test_a_lost_reply_of_a_rename_is_settled(driver, store, target, impatient):
    made = make(driver)
    with faults.lose_reply(store, target):
        driver.update_user(made['id'], {'name': 'other'})
    assert named(driver, made['domain_id'], 'other') == made['id']
    make(driver, name=made['name'], domain_id=made['domain_id'])


@pytest.mark.parametrize('statement', ['INSERT', 'DELETE'])
def test_a_lost_reply_of_a_membership_is_settled(driver, store, statement):
    made, group = make(driver), new()
    driver.create_group(group['id'], group)
    ids = made['id'], group['id']
    if statement == 'DELETE':
        driver.add_user_to_group(*ids)
    with faults.lose_reply(store, getattr(memberships, statement)):
        if statement == 'INSERT':
            driver.add_user_to_group(*ids)
        else:
            driver.remove_user_from_group(*ids)
    found = driver.list_groups_for_user(made['id'], Hints())
    assert bool(found) is (statement == 'INSERT')


def run(target, arguments, count):
    """Run a function in many processes at once; return what they say."""
    start = processes.Barrier(count)
    results = processes.Queue()
    children = [
        processes.Process(target=target, args=(start, results, *arguments))
        for _ in range(count)
    ]
    try:
        for child in children:
            child.start()
        return [results.get(timeout=120) for _ in children]
    finally:
        for child in children:
            child.join(10)
            child.kill()


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


def test_eight_attackers_get_no_more_than_the_bound(driver, conf):
    """Those allowed, and one for each that is being checked meanwhile."""
    conf.set_override(
        'lockout_failure_attempts', ALLOWED, 'security_compliance'
    )
    try:
        for _ in range(3):
            made = make(driver)
            tried = run(attack, (made['id'],), ATTACKERS)
            assert all(isinstance(each, int) for each in tried), tried
            assert ALLOWED <= sum(tried) <= ALLOWED + ATTACKERS - 1
            with pytest.raises(exception.AccountLocked):
                driver.authenticate(made['id'], 'right')
            found = USERS.entity.find(driver.db, made['id'])
            assert len(found['failures']) == sum(tried)
    finally:
        conf.clear_override('lockout_failure_attempts', 'security_compliance')


def claim_name(start, results, domain_id):
    driver = identity.Identity()
    made = new(domain_id=domain_id, name='wanted', password=None)
    start.wait(60)
    try:
        create(driver, made)
        results.put(made['id'])
    except exception.Conflict:
        results.put('conflict')
    except errors.StoreUnavailable as error:
        results.put(repr(error))


def test_sixteen_processes_and_one_name(driver, store, keyspace):
    domain_id = uuid.uuid4().hex
    said = run(claim_name, (domain_id,), CREATORS)
    winners = [each for each in said if each.isalnum() and len(each) == 32]
    found = named(driver, domain_id, 'wanted')
    assert [found] == winners or (found is None and not winners)
    assert said.count('conflict') >= CREATORS // 2
    # No orphan stays: all that the losers wrote is gone.
    hints = Hints()
    hints.add_filter('domain_id', domain_id)
    assert [each['id'] for each in driver.list_users(hints)] == winners
    assert rows.BY_DOMAIN.ids(store, domain_id) == winners


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_an_update_never_brings_a_deleted_user_back(driver, store, keyspace):
    made = make(driver)
    failures = []

    def update():
        try:
            driver.update_user(made['id'], {'email': 'late'})
        except exception.UserNotFound as error:
            failures.append(error)

    with faults.hold(store, USERS.entity.update) as held:
        late = in_thread(update)
        assert held.reached.wait(faults.PATIENCE)
        driver.delete_user(made['id'])
        held.release()
        late.join(faults.PATIENCE)
    assert len(failures) == 1
    session = store._sessions.get().session
    assert not session.execute(
        f'SELECT id FROM {keyspace}."user" WHERE id = %s', (made['id'],)
    ).one()


def test_a_failure_that_comes_late_makes_no_user(driver, store, conf):
    conf.set_override('lockout_failure_attempts', 9, 'security_compliance')
    try:
        made = make(driver)

        def wrong():
            with pytest.raises(AssertionError):
                driver.authenticate(made['id'], 'wrong')

        with faults.hold(store, identity.FAIL) as held:
            late = in_thread(wrong)
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_user(made['id'])
            held.release()
            late.join(faults.PATIENCE)
        with pytest.raises(exception.UserNotFound):
            driver.get_user(made['id'])
        assert made['id'] not in {
            each['id'] for each in driver.list_users(Hints())
        }
        # And is no obstacle to another life of this id.
        create(driver, made)
        assert driver.authenticate(made['id'], 'right')['id'] == made['id']
    finally:
        conf.clear_override('lockout_failure_attempts', 'security_compliance')


def test_of_two_renames_at_once_no_name_is_left_over(driver, store, impatient):
    made = make(driver)
    with faults.hold(store, USERS.entity.update) as held:
        late = in_thread(
            lambda: driver.update_user(made['id'], {'name': 'late'})
        )
        assert held.reached.wait(faults.PATIENCE)
        driver.update_user(made['id'], {'name': 'early'})
        held.release()
        late.join(faults.PATIENCE)
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
        key = rows.name_key(store, each['domain_id'], each['name'])
        assert named(driver, each['domain_id'], each['name']) == each['id']
        claim = store.one(USERS.claims.settle, USERS.claims.row, **key)
        assert (claim['owner'], claim['state']) == (
            each['id'],
            uniqueness.HELD,
        )


def test_of_two_passwords_at_once_both_are_in_the_history(driver, store, conf):
    conf.set_override('unique_last_password_count', 3, 'security_compliance')
    try:
        made = make(driver)
        with faults.hold(store, USERS.entity.update) as held:
            late = in_thread(
                lambda: driver.update_user(made['id'], {'password': 'late'})
            )
            assert held.reached.wait(faults.PATIENCE)
            driver.update_user(made['id'], {'password': 'early'})
            held.release()
            late.join(faults.PATIENCE)
        assert driver.authenticate(made['id'], 'late')
        for former in ('right', 'early', 'late'):
            with pytest.raises(exception.PasswordHistoryValidationError):
                driver.change_password(made['id'], former)
    finally:
        conf.clear_override(
            'unique_last_password_count', 'security_compliance'
        )


def test_a_creator_that_stalls_loses_its_name(driver, store, impatient):
    made = new()
    failures = []

    def slow():
        try:
            create(driver, made)
        except exception.Conflict as error:
            failures.append(error)

    with faults.hold(store, USERS.entity.insert) as held:
        late = in_thread(slow)
        assert held.reached.wait(faults.PATIENCE)
        other = made | {'id': uuid.uuid4().hex}
        create(driver, other)
        held.release()
        late.join(faults.PATIENCE)
    assert len(failures) == 1
    assert named(driver, made['domain_id'], made['name']) == other['id']
    with pytest.raises(exception.UserNotFound):
        driver.get_user(made['id'])


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
            monkeypatch.setattr(memberships, '_life', lambda _, of=life: of)
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
        failures = []

        def slow():
            try:
                shadows.create_federated_user('domain', each)
            except exception.Conflict as error:
                failures.append(error)

        with faults.hold(store, USERS.entity.insert) as held:
            late = in_thread(slow)
            assert held.reached.wait(faults.PATIENCE)
            made = shadows.create_federated_user('domain', each)
            held.release()
            late.join(faults.PATIENCE)
        assert len(failures) == 1
        assert shadows.get_federated_user(*self.key(each)) == made

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

        threads = [in_thread(log_in) for _ in range(4)]
        for thread in threads:
            thread.join(faults.PATIENCE)
        made = {said for said in outcomes if said != 'conflict'}
        assert len(outcomes) == 4
        assert made == {shadows.get_federated_user(*self.key(each))['id']}


class Generator:
    def generate_public_ID(self, mapping):  # noqa: N802
        return uuid.uuid5(uuid.NAMESPACE_OID, str(mapping)).hex
