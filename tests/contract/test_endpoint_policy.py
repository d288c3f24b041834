# SPDX-License-Identifier: Apache-2.0
"""Endpoint policies: promises, and equal answers as Keystone's SQL driver."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.endpoint_policy.backends import sql as sql_endpoint_policy

from keystone_cassandra_token.drivers.catalog import endpoint_policy
from keystone_cassandra_token.drivers.catalog.endpoint_policy import (
    ASSOCIATIONS,
)
from tests.contract import sql_oracle
from tests.fault import faults

MODEL = sql_endpoint_policy.PolicyAssociation
POLICIES = ['policy-1', 'policy-2']
ENDPOINTS = ['endpoint-1', 'endpoint-2']
SERVICES = ['service-1', 'service-2']
REGIONS = ['region-1', 'region-2', '", null']

policy_id = st.sampled_from(POLICIES)
endpoint_id = st.sampled_from(ENDPOINTS)
service_id = st.sampled_from(SERVICES)
region_id = st.sampled_from(REGIONS)
target = st.one_of(
    st.fixed_dictionaries({'endpoint_id': endpoint_id}),
    st.fixed_dictionaries({'service_id': service_id}),
    st.fixed_dictionaries({'service_id': service_id, 'region_id': region_id}),
)
calls = st.one_of(
    *[st.tuples(st.just('create_policy_association'), policy_id, target)] * 4,
    st.tuples(st.just('check_policy_association'), policy_id, target),
    st.tuples(st.just('delete_policy_association'), policy_id, target),
    st.tuples(st.just('get_policy_association'), target),
    *[st.tuples(st.just('list_associations_for_policy'), policy_id)] * 2,
    st.tuples(st.just('delete_association_by_endpoint'), endpoint_id),
    st.tuples(st.just('delete_association_by_service'), service_id),
    st.tuples(st.just('delete_association_by_region'), region_id),
    st.tuples(st.just('delete_association_by_policy'), policy_id),
)


@pytest.fixture
def ours(store):
    return endpoint_policy.EndpointPolicy()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(MODEL):
        yield sql_endpoint_policy.EndpointPolicy()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    target = rest.pop() if isinstance(rest[-1], dict) else {}
    try:
        said = getattr(driver, name)(*rest, **target)
    except exception.Error as error:
        return type(error)
    if name == 'get_policy_association':
        return {'policy_id': tuple(said['policy_id'])}
    if isinstance(said, list):
        said.sort(key=lambda each: sorted(map(str, each.items())))
    return said


def empty(driver):
    for each in POLICIES:
        driver.delete_association_by_policy(each)


def test_sequences_give_equal_answers(ours, theirs):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=10, max_size=25))
    def compare(sequence):
        empty(ours)
        sql_oracle.empty(MODEL)
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            seen.add((call[0], isinstance(expected, type) and expected))

    compare()
    assert len({name for name, _ in seen}) == 9
    assert exception.PolicyAssociationNotFound in {said for _, said in seen}


def test_to_get_one_or_all_is_one_read(ours, store):
    policy, endpoint = uuid.uuid4().hex, uuid.uuid4().hex
    ours.create_policy_association(policy, endpoint_id=endpoint)
    with faults.counted(store) as sent:
        found = ours.get_policy_association(endpoint_id=endpoint)
        listed = ours.list_associations_for_policy(policy)
    assert found == {'policy_id': (policy,)}
    assert listed == [
        {
            'policy_id': policy,
            'endpoint_id': endpoint,
            'service_id': None,
            'region_id': None,
        }
    ]
    assert sent == [(ASSOCIATIONS.get,), (ASSOCIATIONS.get_all,)]


@pytest.mark.parametrize(
    'name', ['policy_id', 'endpoint_id', 'service_id', 'region_id']
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name):
    ids = {'policy_id': 'policy', name: 'x' * 65}
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_policy_association(**ids)
