# SPDX-License-Identifier: Apache-2.0
"""Roles: what the driver promises, and equal answers as with SQL."""

import contextlib
import copy
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.assignment.role_backends import base, sql_model
from keystone.assignment.role_backends import sql as sql_role
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.drivers.assignment import role
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (
    sql_model.ImpliedRoleTable,
    sql_model.RoleOption,
    sql_model.RoleTable,
)
IDS = [f'role-{number}' for number in range(4)]
NAMES = ['admin', 'member', 'reader']
DOMAINS = ['domain-1', 'domain-2', None]

attributes = {
    'description': st.sampled_from(['text', '', None]),
    'options': st.sampled_from(
        [{}, {'immutable': True}, {'immutable': False}, {'immutable': None}]
    ),
    'note': st.sampled_from(['x', None, {'a': [1]}]),
    'more': st.booleans(),
    'extra': st.just('dropped'),
}
values = st.fixed_dictionaries(
    {'name': st.sampled_from(NAMES)},
    optional=attributes | {'domain_id': st.sampled_from(DOMAINS)},
)
changes = st.fixed_dictionaries(
    {},
    optional=attributes
    | {
        'name': st.sampled_from([*NAMES, None]),
        'domain_id': st.sampled_from(DOMAINS),
    },
)
filters = st.lists(
    st.sampled_from(
        [
            ('domain_id', None, 'equals'),
            ('domain_id', base.NULL_DOMAIN_ID, 'equals'),
            ('domain_id', DOMAINS[0], 'equals'),
            ('name', NAMES[0], 'equals'),
            ('name', 'M', 'contains'),
            ('name', 're', 'startswith'),
            ('description', None, 'equals'),
            ('note', 'x', 'equals'),
        ]
    ),
    max_size=2,
    unique_by=lambda entry: entry[0],
)
# One more often than the others, so that more happens to it.
some_id = st.sampled_from([*IDS, *IDS[:1] * 2])
pair = (some_id, some_id)
calls = st.one_of(
    st.tuples(st.just('create_role'), some_id, values),
    st.tuples(st.just('create_role'), some_id, values),
    st.tuples(st.just('create_role'), some_id, values),
    st.tuples(st.just('update_role'), some_id, changes),
    st.tuples(st.just('update_role'), some_id, changes),
    st.tuples(st.just('get_role'), some_id),
    st.tuples(st.just('delete_role'), some_id),
    st.tuples(
        st.just('list_roles'), filters, st.sampled_from([None, 1, 2, 9])
    ),
    st.tuples(
        st.just('list_roles_from_ids'),
        st.lists(st.sampled_from([*IDS, 'nobody']), max_size=4),
    ),
    st.tuples(st.just('create_implied_role'), *pair),
    st.tuples(st.just('create_implied_role'), *pair),
    st.tuples(st.just('create_implied_role'), *pair),
    st.tuples(st.just('delete_implied_role'), *pair),
    st.tuples(st.just('get_implied_role'), *pair),
    st.tuples(st.just('list_implied_roles'), some_id),
    st.tuples(st.just('list_role_inference_rules')),
)


@pytest.fixture
def ours(store):
    return role.Role()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_role.Role()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    # The SQL driver takes the options out of what it is given.
    name, *rest = copy.deepcopy(call)
    try:
        if name == 'create_role':
            return driver.create_role(rest[0], rest[1] | {'id': rest[0]})
        if name == 'list_roles':
            return listed(driver, *rest)
        said = getattr(driver, name)(*rest)
    except exception.Error as error:
        return type(error)
    return in_order(said) if name.startswith('list_') else said


def listed(driver, wanted, limit):
    hints = Hints()
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if limit:
        hints.set_limit(limit)
    found = driver.list_roles(hints)
    left = [entry['name'] for entry in hints.filters]
    if hints.limit and hints.limit['truncated']:
        # Which ones are left out is anybody's choice.
        return len(found), left, hints.limit
    return in_order(found), left, hints.limit


def in_order(found):
    assert type(found) is list
    return sorted(found, key=lambda each: sorted(map(str, each.items())))


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
    assert len({name for name, _ in seen}) > 8
    assert len({said for _, said in seen if said}) > 2


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in ('role', 'role_claim', 'implied_role'):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': None,
        'description': None,
        'options': {},
        **more,
    }


def make(driver, **more):
    made = new(**more)
    assert driver.create_role(made['id'], made) == made
    return made


class TestCost:
    def test_to_get_one_is_one_read(self, ours, store):
        made = make(ours)
        with faults.counted(store) as sent:
            assert ours.get_role(made['id']) == made
        assert sent == [(role.ROLES.entity.get,)]

    def test_to_list_them_is_one_read(self, ours, store):
        made = make(ours)
        with faults.counted(store) as sent:
            assert made in ours.list_roles(Hints())
            assert ours.list_roles_from_ids([made['id']]) == [made]
        assert sent == [
            (role.ROLES.entity.get_all,),
            (role.ROLES.entity.get_some,),
        ]

    def test_rules_and_roles_are_asked_for_at_once(self, ours, store):
        one, other = make(ours)['id'], make(ours)['id']
        ours.create_implied_role(one, other)
        for call in (
            lambda: ours.list_role_inference_rules(),
            lambda: ours.list_implied_roles(one),
            lambda: [ours.get_implied_role(one, other)],
        ):
            with in_flight(store) as counts:
                assert {
                    'prior_role_id': one,
                    'implied_role_id': other,
                } in call()
            assert counts == [1, 2]

    @pytest.mark.parametrize('few', [True, False])
    def test_all_roles_are_read_if_they_are_few(
        self, ours, store, monkeypatch, few
    ):
        if not few:
            monkeypatch.setattr(role, 'FEW', 0)
        prior, first, second = (make(ours)['id'] for _ in range(3))
        reads = [(role.RULES.get_all,), (role.LIST_FEW,)]
        # That they are many is known from the second time on.
        for expected in (reads, reads if few else reads[:1]):
            with faults.counted(store) as sent:
                assert ours.list_implied_roles(prior) == []
            assert sent == expected
        for implied in ([first], [first, second]):
            ours.create_implied_role(prior, implied[-1])
            found = ours.list_implied_roles(prior)
            assert {each['implied_role_id'] for each in found} == set(implied)
        ours.delete_role(first)
        (left,) = ours.list_implied_roles(prior)
        assert left['implied_role_id'] == second
        ours.delete_implied_role(prior, second)
        assert ours.list_implied_roles(prior) == []


@contextlib.contextmanager
def in_flight(store):
    """Note with each request how many are under way."""
    counts = []
    waiting = set()

    class Waited:
        def __init__(self, future):
            self._future = future
            waiting.add(self)
            counts.append(len(waiting))

        def result(self):
            waiting.discard(self)
            return self._future.result()

    with faults.intercepted(store, lambda _, send: Waited(send())):
        yield counts


@pytest.mark.parametrize(
    ('name', 'longest'),
    [('id', 64), ('name', 255), ('domain_id', 64), ('description', 255)],
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    made = new(**{name: 'x' * (longest + 1)})
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_role(made['id'], made)
    if name != 'id':
        there = make(ours)
        with pytest.raises(exception.StringLengthExceeded):
            ours.update_role(there['id'], {name: made[name]})
        assert ours.get_role(there['id']) == there


def test_a_rule_of_ids_that_are_too_long(ours):
    there = make(ours)['id']
    for ids in ((there, 'x' * 65), ('x' * 65, there)):
        with pytest.raises(exception.StringLengthExceeded):
            ours.create_implied_role(*ids)


def test_a_role_has_a_name(ours, theirs):
    for driver in (theirs, ours):
        for named in ({'name': None}, {}):
            with pytest.raises(exception.UnexpectedError):
                driver.create_role('role', {'id': 'role', **named})
        with pytest.raises(exception.RoleNotFound):
            driver.get_role('role')


def test_an_option_refuses_what_it_does_not_know(ours, theirs):
    for driver in (theirs, ours):
        with pytest.raises(TypeError):
            driver.create_role('role', new(options={'immutable': 'maybe'}))


def test_names_are_folded_as_the_keyspace_says(ours):
    made = make(ours, name='Ärger ' + uuid.uuid4().hex)
    with pytest.raises(exception.Conflict):
        make(ours, name=made['name'].upper())
    make(ours, name=made['name'].upper(), domain_id='domain')
    hints = Hints()
    hints.add_filter('name', made['name'].lower())
    hints.add_filter('domain_id', None)
    assert ours.list_roles(hints) == [made]
    # The same role may change how it is written.
    made['name'] = made['name'].lower()
    assert ours.update_role(made['id'], {'name': made['name']}) == made


def test_a_conflict_names_the_name(ours):
    made = make(ours)
    with pytest.raises(exception.Conflict, match=made['name']):
        make(ours, name=made['name'])


def test_a_freed_name_can_be_taken(ours):
    made = make(ours)
    ours.update_role(made['id'], {'name': uuid.uuid4().hex})
    again = make(ours, name=made['name'])
    ours.delete_role(again['id'])
    make(ours, name=made['name'])


def test_deleting_a_role_leaves_nothing_of_it(ours, store, keyspace):
    made, other = make(ours), make(ours)
    ours.create_implied_role(made['id'], other['id'])
    ours.create_implied_role(other['id'], made['id'])
    ours.delete_role(made['id'])
    session = store.sessions.get().session
    for table in ('role', 'role_claim', 'implied_role'):
        rows = list(session.execute(f'SELECT * FROM {keyspace}.{table}'))
        assert made['id'] not in str(rows), table
