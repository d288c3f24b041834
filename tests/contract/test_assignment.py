# SPDX-License-Identifier: Apache-2.0
"""Grants: promises, and equal answers as Keystone's SQL driver."""

import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.assignment.backends import sql as sql_assignment

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers.assignment import driver as assignment
from keystone_cassandra_token.drivers.assignment import grants
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (sql_assignment.RoleAssignment, sql_assignment.SystemRoleAssignment)
USERS = ['user-1', 'user-2']
GROUPS = ['group-1', 'group-2']
PROJECTS = ['project-1', 'project-2', 'both']
DOMAINS = ['domain-1', 'both']  # a domain is a project of that id as well
ROLES = ['role-1', 'role-2']

role = st.sampled_from(ROLES)
actor = st.one_of(
    st.fixed_dictionaries({'user_id': st.sampled_from(USERS)}),
    st.fixed_dictionaries({'group_id': st.sampled_from(GROUPS)}),
)
target = st.one_of(
    st.fixed_dictionaries({'project_id': st.sampled_from(PROJECTS)}),
    st.fixed_dictionaries({'domain_id': st.sampled_from(DOMAINS)}),
)
inherited = st.fixed_dictionaries(
    {}, optional={'inherited_to_projects': st.booleans()}
)
grant = st.builds(lambda a, t, i: a | t | i, actor, target, inherited)
some_actors = st.one_of(
    st.just({}),
    st.fixed_dictionaries({'user_id': st.sampled_from(USERS)}),
    st.fixed_dictionaries(
        {'group_ids': st.lists(st.sampled_from(GROUPS), unique=True)}
    ),
)
some_targets = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {'project_ids': st.lists(st.sampled_from(PROJECTS), unique=True)}
    ),
    st.fixed_dictionaries({'domain_id': st.sampled_from(DOMAINS)}),
)
listing = st.builds(
    lambda a, t, more: a | t | more,
    some_actors,
    some_targets,
    st.fixed_dictionaries(
        {},
        optional={
            'role_id': role,
            'inherited_to_projects': st.booleans(),
        },
    ),
)
system_actor = st.sampled_from(
    [('user-1', 'UserSystem'), ('group-1', 'GroupSystem')]
)
calls = st.one_of(
    *[st.tuples(st.just('create_grant'), st.tuples(role), grant)] * 4,
    st.tuples(st.just('check_grant_role_id'), st.tuples(role), grant),
    st.tuples(st.just('list_grant_role_ids'), st.just(()), grant),
    st.tuples(st.just('delete_grant'), st.tuples(role), grant),
    st.tuples(
        st.just('add_role_to_user_and_project'),
        st.tuples(st.sampled_from(USERS), st.sampled_from(PROJECTS), role),
        st.just({}),
    ),
    *[st.tuples(st.just('list_role_assignments'), st.just(()), listing)] * 3,
    *[
        st.tuples(
            st.just(f'delete_{kind}_assignments'),
            st.tuples(st.sampled_from(ids)),
            st.just({}),
        )
        for kind, ids in (
            ('project', PROJECTS),
            ('domain', DOMAINS),
            ('user', USERS),
            ('group', GROUPS),
            ('role', ROLES),
        )
    ],
    *[
        st.builds(
            lambda role, of, name=name, more=more: (
                name,
                (role, of[0], 'system', *of[1:more], False),
                {},
            ),
            role,
            system_actor,
        )
        for name, more in (
            ('create_system_grant', None),
            ('check_system_grant', 1),
            ('delete_system_grant', 1),
        )
    ],
    st.builds(
        lambda of, some: (
            'list_system_grants',
            (of[0] if some else None, 'system', of[1] if some else None),
            {},
        ),
        system_actor,
        st.booleans(),
    ),
)


@pytest.fixture
def ours(store):
    return assignment.Assignment()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_assignment.Assignment()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, args, kwargs = call
    try:
        said = getattr(driver, name)(*args, **kwargs)
    except exception.Error as error:
        return type(error)
    return sorted(said, key=str) if isinstance(said, list) else said


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    seen = set()

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=12, max_size=30))
    def compare(sequence):
        empty(store, keyspace)
        sql_oracle.empty(*MODELS)
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            seen.add((call[0], expected if isinstance(expected, type) else 0))

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 12
    assert len([said for _, said in seen if said]) > 3


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in ('grant_by_target', 'grant_by_actor', 'grant_by_role'):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def new(**values):
    return {
        'role_id': uuid.uuid4().hex,
        'user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        **values,
    }


def everywhere(driver, of):
    """Return in how many of three listings a grant is, by each end."""
    found = [
        driver.list_role_assignments(**{name: value})
        for name, value in (
            ('user_id', of['user_id']),
            ('project_ids', [of['project_id']]),
            ('role_id', of['role_id']),
        )
    ]
    assert all(each in ([], [of]) for each in found), found
    return sum(map(bool, found))


def is_granted(driver, of):
    try:
        driver.check_grant_role_id(**of)
    except exception.RoleAssignmentNotFound:
        return False
    return True


class TestCost:
    def test_what_a_user_and_its_groups_have_is_one_read(self, ours, store):
        project_id = uuid.uuid4().hex
        groups = [uuid.uuid4().hex for _ in range(20)]
        for each in groups:
            ours.create_grant('role', group_id=each, project_id=project_id)
        with faults.counted(store) as sent:
            found = ours.list_role_assignments(
                group_ids=groups, project_ids=[project_id]
            )
        assert len(found) == 20
        assert sent == [(grants.LIST_OF_ACTORS_ON_TARGET,)]

    def test_lists_read_their_index_alone(self, ours, store):
        role_id = uuid.uuid4().hex
        made = [new(role_id=role_id) for _ in range(5)]
        for each in made:
            ours.create_grant(**each)
        with faults.counted(store) as sent:
            found = ours.list_role_assignments(role_id=role_id)
        assert len(found) == 5
        assert sent == [(grants.LIST_OF_ROLE,)]

    def test_a_project_is_left_in_batches(self, ours, store):
        project_id = uuid.uuid4().hex
        for _ in range(60):
            ours.create_grant(**new(project_id=project_id))
        with faults.counted(store) as sent:
            ours.delete_project_assignments(project_id)
        deletions = [each for each in sent if each[0] is grants.GRANTS.delete]
        assert [len(each) for each in deletions] == [50, 10]
        assert ours.list_role_assignments(project_ids=[project_id]) == []


class TestCrashes:
    """After each request: the old state or the new, and again succeeds."""

    def test_grant(self, ours, store):
        def create(made):
            ours.create_grant(**made)

        for _, made in faults.each_crash(store, new, create):
            listed = everywhere(ours, made)
            assert listed == (3 if is_granted(ours, made) else 0)
            create(made)
            assert everywhere(ours, made) == 3
            # What is left of a creation that died stays unsettled.
            settled = [each['settled'] for each in rows(store, made)]
            assert settled.count(True) == 2
            assert is_granted(ours, made)

    @pytest.mark.parametrize(
        ('name', 'by'),
        [
            ('delete_grant', None),
            ('delete_user_assignments', 'user_id'),
            ('delete_project_assignments', 'project_id'),
            ('delete_role_assignments', 'role_id'),
        ],
    )
    def test_removal(self, ours, store, name, by):
        def prepare():
            made = new()
            ours.create_grant(**made)
            return made

        def remove(made):
            if by is None:
                ours.delete_grant(**made)
            else:
                getattr(ours, name)(made[by])

        for _, made in faults.each_crash(store, prepare, remove):
            granted = is_granted(ours, made)
            assert everywhere(ours, made) == (3 if granted else 0)
            if granted or by is not None:
                remove(made)
            assert not is_granted(ours, made)
            assert everywhere(ours, made) == 0


def rows(store, made):
    """Return the rows of a grant in the two indexes."""
    return [
        *store.rows(
            grants.LIST_OF_ACTOR, grants.BY_ACTOR, actor_id=made['user_id']
        ),
        *store.rows(
            grants.LIST_OF_ROLE,
            grants.BY_ROLE,
            role_id=made['role_id'],
            shards=grants.ALL_SHARDS,
        ),
    ]


class TestLostReplies:
    def test_of_a_grant(self, ours, store):
        made = new()
        with faults.lose_reply(store, grants.GRANTS.insert):
            ours.create_grant(**made)
        assert everywhere(ours, made) == 3

    def test_of_a_removal(self, ours, store):
        made = new()
        ours.create_grant(**made)
        with faults.lose_reply(store, grants.GRANTS.delete):
            ours.delete_grant(**made)
        assert everywhere(ours, made) == 0

    def test_of_a_batch(self, ours, store):
        project_id = uuid.uuid4().hex
        for _ in range(3):
            ours.create_grant(**new(project_id=project_id))
        with faults.lose_reply(store, grants.GRANTS.delete):
            ours.delete_project_assignments(project_id)
        assert ours.list_role_assignments(project_ids=[project_id]) == []

    def test_of_a_write_to_the_indexes(self, ours, store):
        made = new()
        with (
            faults.lose_reply(store, grants.INSERT_BY_ACTOR, times=2),
            pytest.raises(errors.StoreUnavailable),
        ):
            ours.create_grant(**made)
        assert everywhere(ours, made) == 0
        ours.create_grant(**made)
        assert everywhere(ours, made) == 3


class TestClocks:
    def test_a_removal_by_a_clock_that_lags(self, ours, store):
        made = new()
        ours.create_grant(**made)
        with faults.clock_off_by(store, -5):
            ours.delete_grant(**made)
        assert not is_granted(ours, made)
        assert everywhere(ours, made) == 0
        assert rows(store, made) == []

    @pytest.mark.parametrize('first', [-5, 5])
    def test_grant_revoke_grant(self, ours, store, first):
        """By servers whose clocks differ; it ends granted."""
        made = new()
        for off in (first, -first, first):
            with faults.clock_off_by(store, off):
                if off == first:
                    ours.create_grant(**made)
                else:
                    ours.delete_grant(**made)
        assert is_granted(ours, made)
        assert everywhere(ours, made) == 3
        with faults.clock_off_by(store, -5):
            ours.delete_project_assignments(made['project_id'])
        assert not is_granted(ours, made)
        assert everywhere(ours, made) == 0
        assert rows(store, made) == []


class TestRaces:
    def test_a_creator_that_settles_late(self, ours, store):
        """Its grant was removed meanwhile: no listing shows it."""
        made = new()
        with faults.hold(store, grants.GRANTS.insert) as held:
            late = threading.Thread(target=ours.create_grant, kwargs=made)
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            held.release()
            late.join(faults.PATIENCE)
        (grant_,) = grants.on_target(store, made['project_id'])
        ours.delete_grant(**made)
        # What the creator would write if it were stalled here.
        grants.write_index(store, [grant_], grants.Step.SETTLED)
        assert everywhere(ours, made) == 0
        assert rows(store, made) == []

    def test_a_removal_that_is_late_spares_another_grant(self, ours, store):
        made = new()
        ours.create_grant(**made)
        (old,) = grants.on_target(store, made['project_id'])
        ours.delete_grant(**made)
        ours.create_grant(**made)
        assert not grants.remove(store, old)
        assert is_granted(ours, made)
        assert everywhere(ours, made) == 3

    def test_of_two_creators_one_is_first(self, ours):
        made = new()
        outcomes = []
        start = threading.Barrier(8)

        def add():
            start.wait()
            try:
                ours.add_role_to_user_and_project(**made)
                outcomes.append(True)
            except exception.Conflict:
                outcomes.append(False)

        threads = [threading.Thread(target=add) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(faults.PATIENCE)
        assert sorted(outcomes) == [False] * 7 + [True]
        assert everywhere(ours, made) == 3

    def test_a_deletion_goes_on_until_nothing_is_left(self, ours, store):
        """Others are granting while a project is deleted."""
        project_id = uuid.uuid4().hex
        ours.create_grant(**new(project_id=project_id))
        late = new(project_id=project_id)
        with faults.hold(store, grants.GRANTS.delete) as held:
            deletion = threading.Thread(
                target=ours.delete_project_assignments, args=[project_id]
            )
            deletion.start()
            assert held.reached.wait(faults.PATIENCE)
            ours.create_grant(**late)
            held.release()
            deletion.join(faults.PATIENCE)
        assert ours.list_role_assignments(project_ids=[project_id]) == []
        assert everywhere(ours, late) == 0

    def test_one_of_a_batch_that_is_gone_spares_no_other(self, ours, store):
        project_id = uuid.uuid4().hex
        made = [new(project_id=project_id) for _ in range(3)]
        for each in made:
            ours.create_grant(**each)
        listed = grants.on_target(store, project_id)
        ours.delete_grant(**made[0])
        assert grants.remove_all(store, listed) == 3
        assert grants.on_target(store, project_id) == []
        assert sum(everywhere(ours, each) for each in made) == 0


class TestTwoRegions:
    """One grant that two regions have given at once: one incarnation loses."""

    @pytest.fixture(params=['earlier', 'later'])
    def made(self, request, ours, store, keyspace):
        """A grant; whose incarnation was made earlier or later has won."""
        made = new()
        other = {'incarnation': clock.incarnation()}
        ours.create_grant(**made)
        (here,) = grants.on_target(store, made['project_id'])
        if request.param == 'later':
            other = {'incarnation': clock.incarnation()}
        there = here | other
        grants.write_index(store, [there], grants.Step.SETTLED)
        store.sessions.get().session.execute(
            f'INSERT INTO {keyspace}.grant_by_target ({grants.GRANT})'
            f' VALUES ({", ".join(["%s"] * len(there))})',
            [there[name] for name in grants.GRANT.columns],
        )
        assert grants.on_target(store, made['project_id']) == [there]
        return made

    def test_it_is_listed_once(self, ours, made):
        assert everywhere(ours, made) == 3

    @pytest.mark.parametrize(
        ('name', 'by'),
        [
            ('delete_grant', None),
            ('delete_user_assignments', 'user_id'),
            ('delete_project_assignments', 'project_id'),
            ('delete_role_assignments', 'role_id'),
        ],
    )
    def test_it_is_listed_no_more_once_it_is_removed(
        self, ours, made, name, by
    ):
        if by is None:
            ours.delete_grant(**made)
        else:
            getattr(ours, name)(made[by])
        assert everywhere(ours, made) == 0
        assert not is_granted(ours, made)
        ours.create_grant(**made)
        assert everywhere(ours, made) == 3
        ours.delete_grant(**made)
        assert everywhere(ours, made) == 0
