# SPDX-License-Identifier: Apache-2.0
"""Roles and their rules under crashes, lost replies and races."""

import threading
import uuid

import pytest
from keystone import exception
from keystone.assignment.role_backends import base
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.assignment.role import ROLES, RULES
from tests.fault import faults
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

CREATORS = 16


@pytest.fixture
def driver(store):
    return role.Role()


def new(**more):
    return {'id': uuid.uuid4().hex, 'name': uuid.uuid4().hex, **more}


def make(driver, **more):
    made = new(**more)
    driver.create_role(made['id'], made)
    return made


def exists(driver, made):
    """Return whether a role is there, in all ways in which it is asked."""
    there = made['id'] in {each['id'] for each in driver.list_roles(Hints())}
    assert bool(driver.list_roles_from_ids([made['id']])) is there
    try:
        driver.get_role(made['id'])
    except exception.RoleNotFound:
        assert not there
        return False
    assert there
    return True


def implies(driver, prior, implied):
    """Return whether there is a rule, in all ways in which it is asked."""
    rule = {'prior_role_id': prior['id'], 'implied_role_id': implied['id']}
    there = rule in driver.list_role_inference_rules()
    assert (rule in driver.list_implied_roles(prior['id'])) is there
    try:
        assert driver.get_implied_role(*rule.values()) == rule
    except exception.ImpliedRoleNotFound:
        assert not there
        with pytest.raises(exception.ImpliedRoleNotFound):
            driver.delete_implied_role(*rule.values())
        return False
    assert there
    return True


def imply(driver, prior, implied):
    driver.create_implied_role(prior['id'], implied['id'])


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    return thread


NAMES = 'abc'
LABELS = ('first', 'prior', 'second', 'third')


class Roles(World):
    """A role that is called a, implied by another one."""

    kinds = ('role',)

    def __init__(self, store):
        super().__init__(store)
        self.driver = role.Role()
        self.suffix = self.id('names')
        self.create('prior', 'p')
        # What an earlier life of the id has left behind.
        key = {
            'prior_role_id': self.id('prior'),
            'implied_role_id': self.id('second'),
        }
        assert RULES.add(store, **key)
        self.create('first', 'a')
        self.imply()

    def create(self, label, name):
        made = {'id': self.id(label), 'name': name + self.suffix}
        self.driver.create_role(made['id'], made)

    @operation(exception.Conflict, makes='third')
    def create_a(self):
        self.create('third', 'a')

    @operation(exception.Conflict)
    def create_b(self):
        self.create('second', 'b')

    @operation(exception.Conflict, makes='third')
    def another_creates_b(self):
        self.create('third', 'b')

    @operation(exception.Conflict)
    def create_again(self):
        self.create('first', 'a')

    @operation()
    def rename_b(self):
        self.driver.update_role(self.id('first'), {'name': 'b' + self.suffix})

    @operation()
    def rename_c(self):
        self.driver.update_role(self.id('first'), {'name': 'c' + self.suffix})

    @operation()
    def describe(self):
        self.driver.update_role(self.id('first'), {'description': 'new'})

    @operation(exception.RoleNotFound)
    def delete(self):
        self.driver.delete_role(self.id('first'))

    @operation(exception.RoleNotFound)
    def delete_prior(self):
        self.driver.delete_role(self.id('prior'))

    @operation(exception.Conflict)
    def imply(self):
        self.driver.create_implied_role(self.id('prior'), self.id('first'))

    @operation(exception.Conflict)
    def imply_back(self):
        self.driver.create_implied_role(self.id('first'), self.id('prior'))

    @operation(exception.ImpliedRoleNotFound)
    def imply_no_more(self):
        self.driver.delete_implied_role(self.id('prior'), self.id('first'))

    def state(self):
        roles = {label: {'id': self.id(label)} for label in LABELS}
        listed = self.driver.list_roles(Hints())
        seen = {'listed': self.labels([each['id'] for each in listed], False)}
        for label, each in roles.items():
            there = found(self.driver.get_role, each['id'])
            assert bool(self.driver.list_roles_from_ids([each['id']])) is (
                there is not None
            )
            seen[label] = there and (
                there['name'][0],
                there['description'],
            )
        for prior, implied in (
            ('prior', 'first'),
            ('first', 'prior'),
            ('prior', 'second'),
        ):
            seen[f'{prior} implies {implied}'] = implies(
                self.driver, roles[prior], roles[implied]
            )
        return seen

    def wrong(self):
        (names,) = role.ROLE_DERIVED.claim_specs
        keys = {
            name: names.keys(
                self.store,
                {
                    'id': '',
                    'name': name + self.suffix,
                    'domain_id': base.NULL_DOMAIN_ID,
                },
            )[0]
            for name in NAMES
        }
        return wrong_names(self, ROLES.entity, names, keys, LABELS)

    def left(self):
        return ghosts(self, ROLES.entity, LABELS)

    def probe(self):
        """The next life of an id has none of its rules."""
        label = 'first'
        if told(self.create, label, 'd') != DONE:
            return []
        roles = [{'id': self.id(each)} for each in ('prior', label)]
        kept = implies(self.driver, *roles)
        self.driver.delete_role(self.id(label))
        return ['a rule of its former life'] if kept else []


class TestRoles(Generated):
    world = Roles


class TestLostReplies:
    def test_a_rule_that_is_refused(self, driver, store):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        with (
            faults.lose_reply(store, RULES.insert),
            pytest.raises(exception.Conflict),
        ):
            imply(driver, prior, implied)
        assert implies(driver, prior, implied)


class TestRaces:
    def test_of_sixteen_and_one_name_one_wins(self, driver, store):
        name = uuid.uuid4().hex
        start = threading.Barrier(CREATORS)
        won, lost, unknown = [], [], []

        def create():
            start.wait(faults.PATIENCE)
            try:
                won.append(make(driver, name=name)['id'])
            except exception.Conflict as error:
                lost.append(error)
            except errors.StoreUnavailable as error:
                unknown.append(error)

        threads = [in_thread(create) for _ in range(CREATORS)]
        for thread in threads:
            thread.join(faults.PATIENCE)
        assert len(won) + len(lost) + len(unknown) == CREATORS
        assert len(won) <= 1
        assert len(lost) >= CREATORS // 2
        found = [
            each['id']
            for each in driver.list_roles(Hints())
            if each['name'] == name
        ]
        # And no orphan stays: all that the losers wrote is gone.
        assert found == won

    def test_of_eight_and_one_rule_one_wins(self, driver, store):
        prior, implied = make(driver), make(driver)
        start = threading.Barrier(8)
        said = []

        def create():
            start.wait(faults.PATIENCE)
            try:
                imply(driver, prior, implied)
                said.append('made')
            except exception.Conflict:
                said.append('conflict')

        threads = [in_thread(create) for _ in range(8)]
        for thread in threads:
            thread.join(faults.PATIENCE)
        assert sorted(said) == ['conflict'] * 7 + ['made']
        assert implies(driver, prior, implied)

    @pytest.mark.parametrize('gone', ['prior', 'implied'])
    def test_a_rule_that_is_made_while_its_role_goes(
        self, driver, store, gone
    ):
        roles = {'prior': make(driver), 'implied': make(driver)}
        with faults.stalled(
            store, RULES.insert, lambda: imply(driver, *roles.values())
        ) as late:
            driver.delete_role(roles[gone]['id'])
        assert type(late.said) is exception.UnexpectedError
        assert roles[gone]['id'] not in str(
            store.rows(RULES.get_all, RULES.row)
        )

    @pytest.mark.parametrize('gone', ['prior', 'implied'])
    def test_a_rule_of_who_has_not_heard_that_its_role_is_gone(
        self, driver, store, gone
    ):
        """Another datacenter makes it, or a server that dies then."""
        roles = {'prior': make(driver), 'implied': make(driver)}
        driver.delete_role(roles[gone]['id'])
        key = {f'{name}_role_id': each['id'] for name, each in roles.items()}
        assert RULES.add(store, **key)
        assert not implies(driver, *roles.values())
        # Nor does a next life of the role bring it back.
        driver.create_role(roles[gone]['id'], roles[gone])
        assert not implies(driver, *roles.values())
        imply(driver, *roles.values())
        assert implies(driver, *roles.values())

    def test_a_late_deletion_leaves_the_rules_of_a_next_life(
        self, driver, store
    ):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        with faults.hold(store, RULES.get_all) as held:
            late = in_thread(lambda: driver.delete_role(implied['id']))
            assert held.reached.wait(faults.PATIENCE)
            driver.create_role(implied['id'], implied)
            assert not implies(driver, prior, implied)
            imply(driver, prior, implied)
            held.release()
            late.join(faults.PATIENCE)
        assert implies(driver, prior, implied)

    def test_a_creation_that_is_refused_keeps_the_rules(self, driver):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        with pytest.raises(exception.Conflict):
            driver.create_role(implied['id'], new(id=implied['id']))
        assert implies(driver, prior, implied)


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides(driver, store, seconds):
    prior, implied = make(driver), make(driver)
    imply(driver, prior, implied)
    with faults.clock_off_by(store, seconds):
        driver.delete_implied_role(prior['id'], implied['id'])
    assert not implies(driver, prior, implied)
    imply(driver, prior, implied)
    assert implies(driver, prior, implied)
    with faults.clock_off_by(store, seconds):
        driver.delete_role(implied['id'])
    assert not exists(driver, implied)
    assert not implies(driver, prior, implied)
    driver.create_role(implied['id'], implied)
    assert exists(driver, implied)
    assert not implies(driver, prior, implied)
