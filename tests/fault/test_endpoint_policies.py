# SPDX-License-Identifier: Apache-2.0
"""Policies and their associations under crashes, lost replies and races."""

from keystone import exception

from keystone_cassandra_token.drivers import policy
from keystone_cassandra_token.drivers.catalog import endpoint_policy
from keystone_cassandra_token.drivers.policy import POLICIES
from tests.fault.generated import (
    Generated,
    World,
    found,
    ghosts,
    operation,
)


def has(driver, target):
    """Return which policy a target has, in all ways of asking, or None."""
    try:
        (policy_id,) = driver.get_policy_association(**target)['policy_id']
    except exception.PolicyAssociationNotFound:
        return None
    driver.check_policy_association(policy_id, **target)
    listed = driver.list_associations_for_policy(policy_id)
    nothing = {'endpoint_id': None, 'region_id': None}
    assert {**nothing, **target, 'policy_id': policy_id} in listed
    return policy_id


class Associations(World):
    """A service in a region with the old policy; another one with it."""

    ages = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = endpoint_policy.EndpointPolicy()
        self.target = {
            'service_id': self.id('service'),
            'region_id': self.id('region'),
        }
        self.driver.create_policy_association(
            self.id('old'), service_id=self.id('another')
        )
        self.driver.create_policy_association(self.id('old'), **self.target)

    @operation()
    def set_new(self):
        self.driver.create_policy_association(self.id('new'), **self.target)

    @operation()
    def set_third(self):
        self.driver.create_policy_association(self.id('third'), **self.target)

    @operation()
    def set_for_a_new_one(self):
        self.driver.create_policy_association(
            self.id('new'), service_id=self.id('fresh')
        )

    @operation()
    def another_sets_for_it(self):
        self.driver.create_policy_association(
            self.id('third'), service_id=self.id('fresh')
        )

    @operation()
    def delete_old(self):
        self.driver.delete_policy_association(self.id('old'), **self.target)

    @operation(partly=None)
    def delete_by_policy(self):
        self.driver.delete_association_by_policy(self.id('old'))

    @operation()
    def delete_by_service(self):
        self.driver.delete_association_by_service(self.id('service'))

    @operation()
    def delete_by_region(self):
        self.driver.delete_association_by_region(self.id('region'))

    def state(self):
        seen = {
            'it': has(self.driver, self.target),
            'another': has(self.driver, {'service_id': self.id('another')}),
            'fresh': has(self.driver, {'service_id': self.id('fresh')}),
        }
        return {
            name: each and self.labels([each]) for name, each in seen.items()
        }

    def wrong(self):
        """No policy has what has another one."""
        listed = [
            (each['service_id'], each['region_id'])
            for policy in ('old', 'new', 'third')
            for each in self.driver.list_associations_for_policy(
                self.id(policy)
            )
        ]
        return ['two policies'] if len(set(listed)) < len(listed) else []


class TestAssociations(Generated):
    world = Associations


class Policies(World):
    """A policy."""

    ages = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = policy.Policy()
        self.create('first', '{}')

    def create(self, label, blob):
        made = {'id': self.id(label), 'blob': blob, 'type': 'text'}
        self.driver.create_policy(made['id'], made)

    @operation(exception.Conflict)
    def create_second(self):
        self.create('second', '{}')

    @operation(exception.Conflict)
    def create_again(self):
        self.create('first', 'again')

    @operation()
    def set_blob(self):
        self.driver.update_policy(self.id('first'), {'blob': 'new'})

    @operation()
    def set_note(self):
        self.driver.update_policy(self.id('first'), {'note': 'new'})

    @operation(exception.PolicyNotFound)
    def delete(self):
        self.driver.delete_policy(self.id('first'))

    def state(self):
        there = [each['id'] for each in self.driver.list_policies()]
        seen = {'listed': self.labels(there, False)}
        for label in ('first', 'second'):
            one = found(self.driver.get_policy, self.id(label))
            seen[label] = one and one | {'id': label}
        return seen

    def left(self):
        return ghosts(self, POLICIES, ('first', 'second'))


class TestPolicies(Generated):
    world = Policies
