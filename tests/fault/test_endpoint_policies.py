# SPDX-License-Identifier: Apache-2.0
"""Policies and their associations under crashes, lost replies and races."""

import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers import policy
from keystone_cassandra_token.drivers.catalog import endpoint_policy
from keystone_cassandra_token.drivers.catalog.endpoint_policy import (
    ASSOCIATIONS,
)
from keystone_cassandra_token.drivers.policy import POLICIES
from tests.fault import faults


@pytest.fixture
def driver(store):
    return endpoint_policy.EndpointPolicy()


@pytest.fixture
def target():
    return {'service_id': uuid.uuid4().hex, 'region_id': uuid.uuid4().hex}


def has(driver, target):
    """Return which policy a target has, in all ways of asking, or None."""
    try:
        (found,) = driver.get_policy_association(**target)['policy_id']
    except exception.PolicyAssociationNotFound:
        return None
    driver.check_policy_association(found, **target)
    listed = driver.list_associations_for_policy(found)
    assert {**target, 'policy_id': found, 'endpoint_id': None} in listed
    return found


def late(store, statement, call, meanwhile):
    """Hold a call at a statement while something else is done."""
    with faults.hold(store, statement) as held:
        thread = threading.Thread(target=call)
        thread.start()
        assert held.reached.wait(faults.PATIENCE)
        meanwhile()
        held.release()
        thread.join(faults.PATIENCE)
        assert not thread.is_alive()


def test_a_crash_leaves_the_old_policy_or_the_new_one(driver, store, target):
    outcomes = []
    for _, _ in faults.each_crash(
        store,
        lambda: driver.create_policy_association('old', **target),
        lambda _: driver.create_policy_association('new', **target),
    ):
        outcomes.append(has(driver, target))
    assert set(outcomes) == {'old', 'new'}
    assert outcomes == sorted(outcomes, reverse=True)


def test_a_crash_leaves_less_of_what_is_deleted(driver, store):
    policy_id = uuid.uuid4().hex

    def prepare():
        for name in ('one', 'two'):
            driver.create_policy_association(policy_id, service_id=name)

    left = []
    for _, _ in faults.each_crash(
        store,
        prepare,
        lambda _: driver.delete_association_by_policy(policy_id),
    ):
        left.append(len(driver.list_associations_for_policy(policy_id)))
        driver.delete_association_by_policy(policy_id)
        assert driver.list_associations_for_policy(policy_id) == []
    assert left == sorted(left, reverse=True)
    assert (left[0], left[-1]) == (2, 0)


def test_lost_replies_are_settled(driver, store, target):
    with faults.lose_reply(store, ASSOCIATIONS.insert):
        driver.create_policy_association('old', **target)
    assert has(driver, target) == 'old'
    with (
        faults.lose_reply(store, ASSOCIATIONS.insert),
        faults.lose_reply(store, ASSOCIATIONS.update),
    ):
        driver.create_policy_association('new', **target)
    assert has(driver, target) == 'new'
    with faults.lose_reply(store, ASSOCIATIONS.delete):
        driver.delete_policy_association('new', **target)
    assert has(driver, target) is None


def test_what_was_not_done_is_told(driver, store, target):
    driver.create_policy_association('old', **target)
    for statement, call in (
        (ASSOCIATIONS.update, driver.create_policy_association),
        (ASSOCIATIONS.delete, driver.delete_policy_association),
    ):
        policy_id = 'old' if statement is ASSOCIATIONS.delete else 'new'
        with (
            faults.fail(store, statement),
            pytest.raises(errors.OutcomeUnknown),
        ):
            call(policy_id, **target)
    assert has(driver, target) == 'old'


@pytest.mark.parametrize(
    'delete', ['delete_policy_association', 'delete_association_by_policy']
)
def test_a_deletion_means_the_policy_that_was_there(
    driver, store, target, delete
):
    policies = [uuid.uuid4().hex, uuid.uuid4().hex]
    driver.create_policy_association(policies[0], **target)
    key = target if delete == 'delete_policy_association' else {}
    late(
        store,
        ASSOCIATIONS.delete,
        lambda: getattr(driver, delete)(policies[0], **key),
        lambda: driver.create_policy_association(policies[1], **target),
    )
    assert has(driver, target) == policies[1]


def test_a_service_that_goes_loses_any_policy(driver, store, target):
    driver.create_policy_association('old', **target)
    late(
        store,
        ASSOCIATIONS.delete,
        lambda: driver.delete_association_by_service(target['service_id']),
        lambda: driver.create_policy_association('new', **target),
    )
    assert has(driver, target) is None


def test_deleted_while_it_is_replaced_it_is_made_again(driver, store, target):
    driver.create_policy_association('old', **target)
    late(
        store,
        ASSOCIATIONS.update,
        lambda: driver.create_policy_association('new', **target),
        lambda: driver.delete_policy_association('old', **target),
    )
    assert has(driver, target) == 'new'


def test_two_that_create_it_leave_one(driver, store, target):
    late(
        store,
        ASSOCIATIONS.insert,
        lambda: driver.create_policy_association('late', **target),
        lambda: driver.create_policy_association('early', **target),
    )
    assert has(driver, target) == 'late'
    assert not [
        each
        for each in driver.list_associations_for_policy('early')
        if each['service_id'] == target['service_id']
    ]


def test_changes_of_different_attributes_of_a_policy_all_survive(store):
    policies = policy.Policy()
    made = {'id': uuid.uuid4().hex, 'blob': '{}', 'type': 'text'}
    policies.create_policy(made['id'], made)
    late(
        store,
        POLICIES.update,
        lambda: policies.update_policy(made['id'], {'blob': 'new'}),
        lambda: policies.update_policy(made['id'], {'note': 'new'}),
    )
    expected = made | {'blob': 'new', 'note': 'new'}
    assert policies.get_policy(made['id']) == expected
