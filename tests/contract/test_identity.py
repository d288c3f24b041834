# SPDX-License-Identifier: Apache-2.0
"""Users and groups: promises, and equal answers as Keystone's SQL driver."""

import datetime
import operator
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.common import password_hashing
from keystone.common.driver_hints import Hints
from keystone.federation.backends import sql as sql_federation
from keystone.identity.backends import sql as sql_identity
from keystone.identity.backends import sql_model
from oslo_serialization import jsonutils
from oslo_utils import fixture as time_fixture

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import credential
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    lockout,
    memberships,
    passwords,
    users,
)
from keystone_cassandra_token.drivers.identity.users import USERS
from tests.contract import emptying, lives, sql_oracle, user_tables
from tests.fault import faults

MODELS = (
    *user_tables.MODELS,
    sql_model.Group,
    sql_federation.FederationProtocolModel,
    sql_federation.IdentityProviderModel,
)
TABLES = (*user_tables.TABLES, 'group', 'group_by_domain', 'group_claim')
DOMAINS = ['domain-1', 'domain-2']
NAMES = ['anna', 'bert', 'carl']
PASSWORDS = ['first', 'first', 'second', None]
USER_IDS = [f'user-{number}' for number in range(4)]
GROUP_IDS = [f'group-{number}' for number in range(3)]
COMPLIANCE = {
    'lockout_failure_attempts': 2,
    'lockout_duration': 1800,
    'unique_last_password_count': 2,
    'password_expires_days': 30,
    'minimum_password_age': 0,
}

attributes = {
    'enabled': st.booleans(),
    'password': st.sampled_from(PASSWORDS),
    'default_project_id': st.sampled_from(['project-1', 'project-2', None]),
    'email': st.sampled_from(['x@example.org', None]),
    'options': st.sampled_from(
        [
            {},
            {'lock_password': True},
            {'lock_password': None},
            {'ignore_lockout_failure_attempts': True},
            {'multi_factor_auth_rules': [['password', 'totp']]},
        ]
    ),
}
user = st.fixed_dictionaries(
    {'name': st.sampled_from(NAMES), 'domain_id': st.sampled_from(DOMAINS)},
    optional=attributes,
)
user_changes = st.fixed_dictionaries(
    {}, optional=attributes | {'name': st.sampled_from(NAMES)}
)
group = st.fixed_dictionaries(
    {'name': st.sampled_from(NAMES), 'domain_id': st.sampled_from(DOMAINS)},
    optional={'description': st.text(max_size=3), 'note': st.booleans()},
)
group_changes = st.fixed_dictionaries(
    {},
    optional={
        'name': st.sampled_from(NAMES),
        'description': st.sampled_from(['x', None]),
    },
)
#: What a log-in reads where users can be locked.
LOOK = [(USERS.entity.get,), (lockout.GET_FAILED,)]
# Some ids more often than others, so that more happens to one.
user_id = st.sampled_from([*USER_IDS, *USER_IDS[:1] * 3])
group_id = st.sampled_from([*GROUP_IDS, *GROUP_IDS[:1] * 2])
filters = st.lists(
    st.sampled_from(
        [
            ('domain_id', DOMAINS[0], 'equals'),
            ('name', NAMES[0], 'equals'),
            ('name', 'R', 'contains'),
            ('name', 'c', 'startswith'),
            ('enabled', True, 'equals'),
            ('email', 'x@example.org', 'equals'),
        ]
    ),
    max_size=2,
    unique_by=lambda entry: entry[0],
)
limits = st.sampled_from([None, None, 1, 2, 10])
calls = st.one_of(
    st.tuples(st.just('create_user'), user_id, user),
    st.tuples(st.just('create_user'), user_id, user),
    st.tuples(st.just('update_user'), user_id, user_changes),
    st.tuples(st.just('update_user'), user_id, user_changes),
    st.tuples(st.just('get_user'), user_id),
    st.tuples(
        st.just('get_user_by_name'),
        st.sampled_from(NAMES),
        st.sampled_from(DOMAINS),
    ),
    st.tuples(st.just('delete_user'), user_id),
    st.tuples(
        st.just('authenticate'), user_id, st.sampled_from(PASSWORDS[:3])
    ),
    st.tuples(
        st.just('authenticate'), user_id, st.sampled_from(PASSWORDS[:3])
    ),
    st.tuples(
        st.just('change_password'), user_id, st.sampled_from(PASSWORDS[:3])
    ),
    st.tuples(st.just('list_users'), filters, limits, st.none() | user_id),
    st.tuples(
        st.just('unset_default_project_id'),
        st.sampled_from(['project-1', 'project-2']),
    ),
    st.tuples(st.just('create_group'), group_id, group),
    st.tuples(st.just('create_group'), group_id, group),
    st.tuples(st.just('update_group'), group_id, group_changes),
    st.tuples(st.just('get_group'), group_id),
    st.tuples(
        st.just('get_group_by_name'),
        st.sampled_from(NAMES),
        st.sampled_from(DOMAINS),
    ),
    st.tuples(st.just('delete_group'), group_id),
    st.tuples(st.just('list_groups'), filters, limits, st.none() | group_id),
    st.tuples(st.just('add_user_to_group'), user_id, group_id),
    st.tuples(st.just('add_user_to_group'), user_id, group_id),
    st.tuples(st.just('check_user_in_group'), user_id, group_id),
    st.tuples(st.just('remove_user_from_group'), user_id, group_id),
    # Without filters: SQL's driver stumbles over them.
    st.tuples(st.just('list_groups_for_user'), user_id, st.just([])),
    st.tuples(st.just('list_users_in_group'), group_id, filters),
    st.tuples(st.just('wait'), st.sampled_from([60, 1801, 86400 * 31])),
)


@pytest.fixture
def compliance(conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    for name, value in COMPLIANCE.items():
        conf.set_override(name, value, 'security_compliance')
    yield conf.security_compliance
    for name in COMPLIANCE:
        conf.clear_override(name, 'security_compliance')
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def ours(store):
    return identity.Identity()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_identity.Identity()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    method = getattr(driver, name)
    try:
        if name.startswith('create'):
            return method(rest[0], rest[1] | {'id': rest[0]})
        if name.startswith('list'):
            return listed(method, *rest)
        said = method(*rest)
    except (exception.Error, AssertionError) as error:
        return type(error)
    except AttributeError:
        # SQL's driver, where the user is not there; Keystone looks before.
        assert name == 'change_password'
        return exception.UserNotFound
    return said


def listed(method, *rest):
    *before, wanted = rest if len(rest) == 2 else ((), rest[0])
    hints = Hints()
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if len(rest) == 3:
        if rest[1]:
            hints.set_limit(rest[1])
        hints.marker = rest[2]
        found = method(hints)
        assert [each['id'] for each in found] == sorted(
            each['id'] for each in found
        )
    else:
        found = method(before[0], hints)
        found.sort(key=lambda each: each['id'])
    left = [entry['name'] for entry in hints.filters]
    return found, left, hints.limit


def test_sequences_give_equal_answers(
    ours, theirs, store, keyspace, compliance
):
    seen = set()

    @settings(
        max_examples=70,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=12, max_size=30))
    def compare(sequence):
        emptying.truncate(store, keyspace, *TABLES)
        sql_oracle.empty(*MODELS)
        with time_fixture.TimeFixture() as time:
            for call in sequence:
                if call[0] == 'wait':
                    time.advance_time_seconds(call[1])
                    continue
                # SQL orders the passwords of one instant as it likes.
                time.advance_time_seconds(1)
                expected, answer = (
                    play(each, call) for each in (theirs, ours)
                )
                assert answer == expected, call
                seen.add(
                    (call[0], expected if isinstance(expected, type) else 0)
                )

    compare()
    # Chance decides what happens; most of this does, in any run.
    happened = {name for name, _ in seen}
    assert len(happened) > 15
    assert len([said for _, said in seen if said]) > 5


def make(driver, **values):
    made = {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': uuid.uuid4().hex,
        'enabled': True,
        'password': 'right',
        **values,
    }
    driver.create_user(made['id'], made)
    return made


def make_group(driver, **values):
    made = {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': uuid.uuid4().hex,
        **values,
    }
    driver.create_group(made['id'], made)
    return made


def fail(driver, made, times=1):
    for _ in range(times):
        with pytest.raises(AssertionError):
            driver.authenticate(made['id'], 'wrong')


class TestCost:
    def test_to_authenticate_is_one_read(self, ours, store):
        made = make(ours)
        with faults.counted(store) as sent:
            ours.authenticate(made['id'], 'right')
        assert sent == [(USERS.entity.get,)]

    def test_it_is_two_where_users_can_be_locked(
        self, ours, store, compliance
    ):
        made = make(ours)
        with faults.counted(store) as sent:
            ours.authenticate(made['id'], 'right')
        assert sent == LOOK

    def test_a_wrong_password_is_one_write(self, ours, store, compliance):
        made = make(ours)
        with faults.counted(store) as sent:
            fail(ours, made)
        assert sent == [*LOOK, (lockout.FAIL_FOR_A_WHILE,)]

    def test_by_name_is_two_reads(self, ours, store):
        made = make(ours)
        with faults.counted(store) as sent:
            ours.get_user_by_name(made['name'], made['domain_id'])
        assert sent == [(USERS.claims.get,), (USERS.entity.get,)]

    def test_groups_again_are_one_round_trip(self, ours, store):
        made = make(ours)
        of_user = [make_group(ours) for _ in range(3)]
        for each in of_user[:2]:
            ours.add_user_to_group(made['id'], each['id'])

        def ids():
            found = ours.list_groups_for_user(made['id'], Hints())
            return {each['id'] for each in found}

        assert ids() == {each['id'] for each in of_user[:2]}
        with faults.counted(store) as sent:
            assert ids() == {each['id'] for each in of_user[:2]}
        assert len(sent) == 3
        # A guess is never an answer.
        ours.remove_user_from_group(made['id'], of_user[0]['id'])
        assert ids() == {of_user[1]['id']}
        ours.add_user_to_group(made['id'], of_user[2]['id'])
        assert ids() == {each['id'] for each in of_user[1:]}
        ours.delete_group(of_user[1]['id'])
        assert ids() == {of_user[2]['id']}

    def test_all_users_are_one_read_however_many(self, ours, store):
        for _ in range(2):
            made = {make(ours, password=None)['id'] for _ in range(10)}
            with faults.counted(store) as sent:
                found = ours.list_users(Hints())
            assert made <= {each['id'] for each in found}
            assert sent == [(identity.LIST_USERS,)]

    @pytest.mark.parametrize('others', [0, 150])
    def test_a_page_costs_what_it_shows(self, ours, store, others):
        domain_id = uuid.uuid4().hex
        made = sorted(
            make(ours, domain_id=domain_id, password=None)['id']
            for _ in range(5 + others)
        )
        hints = Hints()
        hints.add_filter('domain_id', domain_id)
        hints.set_limit(3)
        hints.marker = made[1]
        with faults.counted(store) as sent:
            found = ours.list_users(hints)
        assert [each['id'] for each in found] == made[2:5]
        assert hints.limit['truncated']  # a full page, as with SQL
        # The marker, a slice of each shard, and about a page of users.
        assert len(sent) < 60


class TestLockOut:
    def test_nothing_is_written_while_locked(self, ours, store, compliance):
        made = make(ours)
        fail(ours, made, COMPLIANCE['lockout_failure_attempts'])
        with faults.counted(store) as sent:
            for _ in range(3):
                with pytest.raises(exception.AccountLocked):
                    ours.authenticate(made['id'], 'right')
        assert sent == LOOK * 3

    def test_nothing_is_written_where_nobody_is_locked(self, ours, store):
        made = make(ours)
        with faults.counted(store) as sent:
            fail(ours, made, 3)
        assert set(sent) == {(USERS.entity.get,)}

    def test_without_a_duration_until_somebody_enables(
        self, ours, conf, compliance
    ):
        conf.set_override('lockout_duration', None, 'security_compliance')
        made = make(ours)
        fail(ours, made, COMPLIANCE['lockout_failure_attempts'])
        with time_fixture.TimeFixture() as time:
            time.advance_time_seconds(10**9)
            with pytest.raises(exception.AccountLocked):
                ours.authenticate(made['id'], 'right')
        ours.update_user(made['id'], {'enabled': True})
        assert ours.authenticate(made['id'], 'right')['id'] == made['id']

    def test_a_wrong_password_ends_by_itself(
        self, ours, store, compliance, monkeypatch
    ):
        monkeypatch.setattr(
            lockout, 'REMEMBERED', 1 - COMPLIANCE['lockout_duration']
        )
        made = make(ours)
        with faults.counted(store) as sent:
            fail(ours, made)
        assert sent[-1] == (lockout.FAIL_FOR_A_WHILE,)
        user = users.get(store, made['id'])
        lives.until_gone(lambda: lockout.failed_at(store, user))

    def test_without_a_duration_a_wrong_password_has_no_end(
        self, ours, conf, store, compliance
    ):
        conf.set_override('lockout_duration', None, 'security_compliance')
        made = make(ours)
        with faults.counted(store) as sent:
            fail(ours, made)
        assert sent == [*LOOK, (lockout.FAIL,)]

    @pytest.mark.parametrize('allowed', [1, 2, 5])
    def test_a_count_reads_no_more_than_locks(
        self, ours, conf, store, compliance, allowed
    ):
        conf.set_override(
            'lockout_failure_attempts', allowed, 'security_compliance'
        )
        made = make(ours)
        user = users.get(store, made['id'])
        for _ in range(9):  # that were being checked at one moment
            lockout.count(store, user)
        assert len(lockout.failed_at(store, user)) == allowed

    def test_a_count_that_was_left_never_comes_back(
        self, ours, store, compliance
    ):
        made = make(ours)
        with faults.stalled(
            store,
            USERS.entity.update,
            lambda: ours.update_user(made['id'], {'email': 'new'}),
        ):
            for _ in range(2):
                fail(ours, made)
                ours.authenticate(made['id'], 'right')
        fail(ours, made)
        assert ours.authenticate(made['id'], 'right')['id'] == made['id']

    def test_another_user_of_this_id_begins_with_none(self, ours, compliance):
        made = make(ours)
        fail(ours, made, COMPLIANCE['lockout_failure_attempts'])
        ours.delete_user(made['id'])
        ours.create_user(made['id'], made)
        assert ours.authenticate(made['id'], 'right')['id'] == made['id']

    def test_what_is_being_checked_at_a_reset_counts_to_one_that_is_read(
        self, ours, store, compliance
    ):
        made = make(ours)
        fail(ours, made)
        user = users.get(store, made['id'])
        with faults.stalled(
            store, lockout.RESET, lambda: lockout.reset(store, user)
        ):
            ours.authenticate(made['id'], 'right')
        lockout.count(store, user)
        assert len(lockout.failed_at(store, users.get(store, made['id']))) == 1


class TestPasswords:
    def test_no_password_is_anywhere_in_clear(self, ours, store, keyspace):
        make(ours, password='a password to look for')
        session = store.sessions.get().session
        rows = session.execute(f'SELECT * FROM {keyspace}."user"')
        assert 'a password to look for' not in str(list(rows))

    def test_filter_by_expiry(self, ours, compliance):
        domain_id = uuid.uuid4().hex
        made = make(ours, domain_id=domain_id)
        make(ours, domain_id=domain_id, password=None)
        ends = ours.get_user(made['id'])['password_expires_at']
        for comparator, time, expected in (
            (operator.lt, ends + datetime.timedelta(1), True),
            (operator.lt, ends, False),
            (operator.ge, ends, True),
        ):
            hints = Hints()
            hints.add_filter('domain_id', domain_id)
            hints.add_filter('password_expires_at', time, comparator)
            found = {each['id'] for each in ours.list_users(hints)}
            assert (made['id'] in found) is expected
            assert not hints.filters


class TestResets:
    """An administrator sets a password, and the user changes it elsewhere."""

    @pytest.fixture(params=['first reset', 'another reset'])
    def made(self, request, ours):
        made = make(ours)
        if request.param == 'another reset':
            ours.update_user(made['id'], {'password': 'right'})
        return made

    def choose(self, store, keyspace, before):
        """Write what a server elsewhere writes, and later than all others."""
        hashed = password_hashing.hash_password('chosen')
        found = users.with_password(before, hashed, self_service=True)
        changes = passwords.choosing(before, found)
        stored = USERS.entity.row.encode(changes)
        store.sessions.get().session.execute(
            f'UPDATE {keyspace}."user" SET passwords = %s,'
            ' chosen_passwords = chosen_passwords + %s, incarnation = %s'
            ' WHERE id = %s',
            (
                stored['passwords'],
                stored['chosen_passwords'],
                clock.incarnation(),
                before['id'],
            ),
        )
        return found

    def test_what_was_chosen_with_the_former_one_does_not_undo_it(
        self, ours, store, keyspace, made
    ):
        before = users.get(store, made['id'])
        ours.update_user(made['id'], {'password': 'reset'})
        self.choose(store, keyspace, before)
        ours.authenticate(made['id'], 'reset')
        with pytest.raises(AssertionError):
            ours.authenticate(made['id'], 'chosen')
        # It goes on from the one that counts.
        ours.change_password(made['id'], 'next')
        ours.authenticate(made['id'], 'next')
        ours.update_user(made['id'], {'password': 'last'})
        ours.authenticate(made['id'], 'last')

    def test_what_was_chosen_after_the_reset_stays(
        self, ours, store, keyspace, made
    ):
        before = users.get(store, made['id'])
        ours.update_user(made['id'], {'password': 'reset'})
        ours.change_password(made['id'], 'mine')
        self.choose(store, keyspace, before)
        ours.authenticate(made['id'], 'mine')
        for other in ('reset', 'chosen'):
            with pytest.raises(AssertionError):
                ours.authenticate(made['id'], other)
        ours.change_password(made['id'], 'next')
        ours.authenticate(made['id'], 'next')

    def test_what_was_chosen_with_the_reset_one_counts(
        self, ours, store, keyspace, made
    ):
        ours.update_user(made['id'], {'password': 'reset'})
        self.choose(store, keyspace, users.get(store, made['id']))
        ours.authenticate(made['id'], 'chosen')

    def test_what_a_former_version_wrote_later_counts(
        self, ours, store, keyspace, made
    ):
        ours.update_user(made['id'], {'password': 'reset'})
        before = users.get(store, made['id'])
        hashed = password_hashing.hash_password('chosen')
        found = users.with_password(before, hashed, self_service=True)
        del found[-1]['reset_id']
        store.sessions.get().session.execute(
            f'UPDATE {keyspace}."user" SET passwords = %s WHERE id = %s',
            (jsonutils.dumps(found), made['id']),
        )
        ours.authenticate(made['id'], 'chosen')

    def test_a_change_that_was_allowed_before_is_refused_after(
        self, ours, store, made
    ):
        """Keystone has checked the former password by then."""
        with faults.stalled(
            store,
            USERS.entity.update,
            lambda: ours.change_password(made['id'], 'chosen'),
        ) as change:
            ours.update_user(made['id'], {'password': 'reset'})
            change.finish()
        assert isinstance(change.said, AssertionError)
        ours.authenticate(made['id'], 'reset')


def test_names_are_folded_as_the_keyspace_says(ours):
    made = make(ours, name='Ärger')
    again = made | {'id': uuid.uuid4().hex, 'name': 'äRGER'}
    with pytest.raises(exception.Conflict):
        ours.create_user(again['id'], again)
    found = ours.get_user_by_name('ÄRGER', made['domain_id'])
    assert found['name'] == 'Ärger'
    # The same user may change how it is written.
    ours.update_user(made['id'], {'name': 'ärger'})
    assert ours.get_user(made['id'])['name'] == 'ärger'


def test_a_freed_name_can_be_taken(ours):
    made = make(ours)
    ours.update_user(made['id'], {'name': 'another'})
    make(ours, name=made['name'], domain_id=made['domain_id'])
    ours.delete_user(made['id'])
    make(ours, name='another', domain_id=made['domain_id'])


def test_deleting_a_user_leaves_nothing_of_it(ours, store, keyspace):
    made = make(ours, default_project_id=uuid.uuid4().hex)
    group = make_group(ours)
    ours.add_user_to_group(made['id'], group['id'])
    ours.delete_user(made['id'])
    session = store.sessions.get().session
    for table in (
        'user',
        'user_by_domain',
        'user_by_default_project',
        'user_claim',
        'membership_by_user',
        'membership_by_group',
    ):
        rows = list(session.execute(f'SELECT * FROM {keyspace}."{table}"'))
        if table == 'user':
            # But that it is gone.
            left = {'id': made['id'], 'incarnation': ...}
            (row,) = (row for row in rows if row['id'] == made['id'])
            said = {n: v for n, v in row.items() if v is not None}
            assert said.keys() == left.keys()
            continue
        assert made['id'] not in str(rows), table
    assert ours.list_users_in_group(group['id'], Hints()) == []


def test_a_membership_that_has_expired_does_not_count(
    ours, store, monkeypatch
):
    """Its row is kept for longer, should its provider allow more again."""
    life = datetime.timedelta(minutes=10)
    monkeypatch.setattr(memberships, 'lifetime', lambda _: life)
    made, groups = make(ours), [make_group(ours) for _ in range(2)]
    ages = (datetime.timedelta(0), life * 2)
    for group, age in zip(groups, ages, strict=True):
        store.run(
            memberships.INSERT_EXPIRING,
            ttl=3600,
            user_id=made['id'],
            group_id=group['id'],
            idp_id='idp',
            last_verified=clock.to_micros(clock.utcnow() - age),
        )
    ours.check_user_in_group(made['id'], groups[0]['id'])
    with pytest.raises(exception.NotFound):
        ours.check_user_in_group(made['id'], groups[1]['id'])
    (found,) = memberships.expiring(store, made['id'])
    assert found['group_id'] == groups[0]['id']


def test_a_member_of_a_deleted_group_is_none(ours):
    made, group = make(ours), make_group(ours)
    ours.add_user_to_group(made['id'], group['id'])
    ours.delete_group(group['id'])
    assert ours.list_groups_for_user(made['id'], Hints()) == []
    assert memberships.MEMBERSHIPS.of(ours.db, made['id']) == []


@pytest.mark.parametrize('name', ['', 'x' * 70_000])
def test_nobody_has_what_can_be_no_key(ours, store, name):
    """Anybody may ask for it; no outage, as Cassandra's error would be one."""
    domain_id = uuid.uuid4().hex
    with pytest.raises(exception.UserNotFound):
        ours.get_user(name)
    with pytest.raises(exception.UserNotFound):
        ours.get_user_by_name(name, domain_id)
    with pytest.raises(exception.GroupNotFound):
        ours.get_group_by_name(name, domain_id)
    with pytest.raises(exception.UserNotFound):
        ours.delete_user(name)
    with pytest.raises(AssertionError):
        ours.authenticate(name, 'secret')
    hints = Hints()
    hints.add_filter('name', name)
    assert ours.list_users(hints) == []
    assert credential.Credential().list_credentials_for_user(name) == []


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides_who_is_a_member(ours, store, seconds):
    made, group = make(ours), make_group(ours)
    ours.add_user_to_group(made['id'], group['id'])
    with faults.clock_off_by(store, seconds):
        ours.remove_user_from_group(made['id'], group['id'])
    with pytest.raises(exception.NotFound):
        ours.check_user_in_group(made['id'], group['id'])
    ours.add_user_to_group(made['id'], group['id'])
    ours.check_user_in_group(made['id'], group['id'])
    assert [
        each['id'] for each in ours.list_users_in_group(group['id'], Hints())
    ] == [made['id']]


@pytest.mark.parametrize(
    ('name', 'longest'),
    [('id', 64), ('name', 255), ('domain_id', 64), ('default_project_id', 64)],
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    with pytest.raises(exception.StringLengthExceeded):
        make(ours, **{name: 'x' * (longest + 1)})
    if name != 'default_project_id':
        with pytest.raises(exception.StringLengthExceeded):
            make_group(ours, **{name: 'x' * (longest + 1)})


def test_last_active_on(ours, conf):
    conf.set_override(
        'disable_user_account_days_inactive', 90, 'security_compliance'
    )
    try:
        earliest = clock.utcnow().date()
        made = make(ours)
        stored = users.get(ours.db, made['id'])
        assert earliest <= stored['last_active_on'] <= clock.utcnow().date()
        with time_fixture.TimeFixture() as time:
            time.advance_time_seconds(90 * 86400)
            assert not ours.get_user(made['id'])['enabled']
    finally:
        conf.clear_override(
            'disable_user_account_days_inactive', 'security_compliance'
        )
