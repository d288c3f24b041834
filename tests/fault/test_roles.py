# SPDX-License-Identifier: Apache-2.0
"""Roles and their rules under crashes, lost replies and races."""

import datetime
import threading
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.assignment.role import ROLES, RULES
from keystone_cassandra_token.tables import unique
from tests.fault import faults

CREATORS = 16


@pytest.fixture
def driver(store):
    return role.Role()


@pytest.fixture
def impatient(monkeypatch):
    """Let a claim of a process that died be taken over at once."""
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))


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


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    def test_create(self, driver, store):
        other = make(driver)

        def prepare():
            made = new()
            # What an earlier life of the id has left behind.
            key = {
                'prior_role_id': other['id'],
                'implied_role_id': made['id'],
            }
            assert RULES.add(store, **key)
            return made

        outcomes = []
        for _, made in faults.each_crash(
            store, prepare, lambda made: driver.create_role(made['id'], made)
        ):
            assert not implies(driver, other, made)
            outcomes.append(exists(driver, made))
            if outcomes[-1]:
                with pytest.raises(exception.Conflict):
                    make(driver, name=made['name'])
            else:
                driver.create_role(made['id'], made)
            assert exists(driver, made)
            assert not implies(driver, other, made)
            imply(driver, other, made)
            assert implies(driver, other, made)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete(self, driver, store):
        def prepare():
            first, made, last = (make(driver) for _ in range(3))
            for rule in (first, made), (made, last), (first, last):
                imply(driver, *rule)
            return first, made, last

        outcomes = []
        for _, (first, made, last) in faults.each_crash(
            store, prepare, lambda roles: driver.delete_role(roles[1]['id'])
        ):
            there = exists(driver, made)
            outcomes.append(there)
            assert implies(driver, first, made) is there
            assert implies(driver, made, last) is there
            assert implies(driver, first, last)
            if there:
                driver.delete_role(made['id'])
            # The next life of the id has none of its rules.
            driver.create_role(made['id'], made)
            assert not implies(driver, first, made)
            assert not implies(driver, made, last)
            imply(driver, first, made)
            assert implies(driver, first, made)
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)


class TestLostReplies:
    def test_a_rule_that_is_made(self, driver, store):
        prior, implied = make(driver), make(driver)
        with faults.lose_reply(store, RULES.insert):
            imply(driver, prior, implied)
        assert implies(driver, prior, implied)

    def test_a_rule_that_is_refused(self, driver, store):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        with (
            faults.lose_reply(store, RULES.insert),
            pytest.raises(exception.Conflict),
        ):
            imply(driver, prior, implied)
        assert implies(driver, prior, implied)

    def test_a_rule_that_is_removed(self, driver, store):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        with faults.lose_reply(store, RULES.delete):
            driver.delete_implied_role(prior['id'], implied['id'])
        assert not implies(driver, prior, implied)

    def test_what_was_not_done_is_told(self, driver, store):
        prior, implied = make(driver), make(driver)
        with (
            faults.fail(store, RULES.insert),
            pytest.raises(errors.OutcomeUnknown),
        ):
            imply(driver, prior, implied)
        assert not implies(driver, prior, implied)
        imply(driver, prior, implied)
        with (
            faults.fail(store, RULES.delete),
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.delete_implied_role(prior['id'], implied['id'])
        assert implies(driver, prior, implied)

    @pytest.mark.parametrize('name', ['insert', 'update', 'delete'])
    def test_roles(self, driver, store, name):
        made = new()
        if name != 'insert':
            driver.create_role(made['id'], made)
        with faults.lose_reply(store, getattr(ROLES.entity, name)):
            if name == 'insert':
                driver.create_role(made['id'], made)
            elif name == 'update':
                driver.update_role(made['id'], {'name': made['name'] * 2})
            else:
                driver.delete_role(made['id'])
        assert exists(driver, made) is (name != 'delete')
        if name != 'insert':
            make(driver, name=made['name'])


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
        with faults.hold(store, RULES.insert) as held:
            late = in_thread(lambda: imply(driver, *roles.values()))
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_role(roles[gone]['id'])
            held.release()
            late.join(faults.PATIENCE)
        # It is in the table, and nobody sees it.
        assert roles[gone]['id'] in str(store.rows(RULES.get_all, RULES.row))
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

    def test_two_that_remove_one_rule(self, driver, store):
        prior, implied = make(driver), make(driver)
        imply(driver, prior, implied)
        failures = []

        def remove():
            try:
                driver.delete_implied_role(prior['id'], implied['id'])
            except exception.ImpliedRoleNotFound as error:
                failures.append(error)

        with faults.hold(store, RULES.delete) as held:
            late = in_thread(remove)
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_implied_role(prior['id'], implied['id'])
            imply(driver, prior, implied)
            held.release()
            late.join(faults.PATIENCE)
        assert len(failures) == 1
        # The late one had seen the rule of before.
        assert implies(driver, prior, implied)

    def test_of_two_renames_at_once_no_name_is_left_over(
        self, driver, store, impatient
    ):
        made = make(driver)
        early, late = uuid.uuid4().hex, uuid.uuid4().hex
        with faults.hold(store, ROLES.entity.update) as held:
            slow = in_thread(
                lambda: driver.update_role(made['id'], {'name': late})
            )
            assert held.reached.wait(faults.PATIENCE)
            driver.update_role(made['id'], {'name': early})
            held.release()
            slow.join(faults.PATIENCE)
        assert driver.get_role(made['id'])['name'] == late
        with pytest.raises(exception.Conflict):
            make(driver, name=late)
        for name in (made['name'], early):
            make(driver, name=name)

    def test_an_update_never_brings_a_deleted_role_back(self, driver, store):
        made = make(driver)
        failures = []

        def update():
            try:
                driver.update_role(made['id'], {'description': 'late'})
            except exception.RoleNotFound as error:
                failures.append(error)

        with faults.hold(store, ROLES.entity.update) as held:
            late = in_thread(update)
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_role(made['id'])
            held.release()
            late.join(faults.PATIENCE)
        assert len(failures) == 1
        assert not exists(driver, made)
        assert not ROLES.entity.find(store, made['id'])


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
