# SPDX-License-Identifier: Apache-2.0
"""Policies: what the driver promises, and equal answers as with SQL."""

import logging
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.policy.backends import sql as sql_policy

from keystone_cassandra_token.drivers import policy
from keystone_cassandra_token.drivers.policy import POLICIES
from tests.contract import sql_oracle
from tests.fault import faults

IDS = ['policy-1', 'policy-2', 'policy-3']

some_id = st.sampled_from(IDS)
attributes = {
    'blob': st.sampled_from(['{"a": "b"}', '', {'rule': ['role:admin']}]),
    'type': st.sampled_from(['application/json', 'text']),
}
more = {
    'note': st.sampled_from(['x', None, {'a': [1]}]),
    'extra': st.just('dropped'),
}
calls = st.one_of(
    *[
        st.tuples(
            st.just('create_policy'),
            some_id,
            st.fixed_dictionaries(attributes, optional=more),
        )
    ]
    * 2,
    st.tuples(
        st.just('update_policy'),
        some_id,
        st.fixed_dictionaries({}, optional=attributes | more),
    ),
    st.tuples(st.just('get_policy'), some_id),
    st.tuples(st.just('delete_policy'), some_id),
    st.tuples(st.just('list_policies')),
)


@pytest.fixture
def ours(store):
    return policy.Policy()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(sql_policy.PolicyModel):
        yield sql_policy.Policy()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    if name == 'create_policy':
        rest[1] = rest[1] | {'id': rest[0]}
    try:
        said = getattr(driver, name)(*rest)
    except exception.Error as error:
        return type(error)
    if isinstance(said, list):
        said.sort(key=lambda each: each['id'])
    return said


def empty(driver):
    for each in driver.list_policies():
        driver.delete_policy(each['id'])


def test_sequences_give_equal_answers(ours, theirs):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=8, max_size=20))
    def compare(sequence):
        empty(ours)
        sql_oracle.empty(sql_policy.PolicyModel)
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            seen.add((call[0], isinstance(expected, type) and expected))

    compare()
    assert {said for _, said in seen} == {
        False,
        exception.Conflict,
        exception.PolicyNotFound,
    }
    assert len({name for name, _ in seen}) == 5


def new(**values):
    return {
        'id': uuid.uuid4().hex,
        'blob': '{}',
        'type': 'text',
        **values,
    }


def test_to_get_one_or_all_is_one_read(ours, store):
    made = new()
    ours.create_policy(made['id'], made)
    with faults.counted(store) as sent:
        assert ours.get_policy(made['id']) == made
        assert made in ours.list_policies()
    assert sent == [(POLICIES.get,), (POLICIES.get_all,)]


def test_an_id_as_associations_give_it(ours):
    made = new()
    ours.create_policy(made['id'], made)
    assert ours.get_policy((made['id'],)) == made
    with pytest.raises(exception.PolicyNotFound):
        ours.get_policy(('none',))


@pytest.mark.parametrize(('name', 'longest'), [('id', 64), ('type', 255)])
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    made = new(**{name: 'x' * (longest + 1)})
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_policy(made['id'], made)


def test_enforcing_is_keystones_and_logs_no_credentials(ours, caplog):
    credentials = {'roles': ['reader'], 'user_id': uuid.uuid4().hex}
    with (
        caplog.at_level(logging.DEBUG, policy.__name__),
        pytest.raises(exception.ForbiddenAction),
    ):
        ours.enforce(credentials, 'identity:create_region', {})
    logged = [
        record.getMessage()
        for record in caplog.records
        if record.name == policy.__name__
    ]
    assert logged == ['enforce identity:create_region']
    ours.enforce(
        credentials | {'roles': ['admin'], 'system_scope': 'all'},
        'identity:create_region',
        {},
    )
