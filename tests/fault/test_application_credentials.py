# SPDX-License-Identifier: Apache-2.0
"""Application credentials under crashes, lost replies and races for a name."""

import datetime
import threading
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import application_credential
from keystone_cassandra_token.drivers.application_credential import (
    CREDENTIALS,
)
from tests.fault import faults
from tests.fault.generated import (
    DONE,
    Generated,
    World,
    ghosts,
    operation,
    told,
    wrong_names,
)

CREATORS = 16


@pytest.fixture(autouse=True)
def cheap_hashes(conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def driver(store):
    return application_credential.ApplicationCredential()


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'name': 'name',
        'secret': 'secret',
        'user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'expires_at': clock.utcnow() + datetime.timedelta(hours=1),
        **more,
    }


RULE = {'service': 'compute', 'path': '/servers', 'method': 'GET'}


def create(driver, made):
    rule = RULE | {'id': uuid.uuid4().hex}
    driver.create_application_credential(made, [{'id': 'role'}], [rule])


LABELS = ('first', 'second', 'third')


class ApplicationCredentials(World):
    """An application credential that is called a, with a rule; expiring."""

    kinds = ('application_credential', 'access_rule')
    hours: int | None = 1

    def __init__(self, store):
        super().__init__(store)
        self.driver = application_credential.ApplicationCredential()
        self.create('first', 'a')

    def create(self, label, name):
        ahead = datetime.timedelta(hours=self.hours or 0)
        made = new(
            id=self.id(label),
            name=name,
            user_id=self.id('user'),
            project_id=self.id('project'),
            expires_at=self.hours and clock.utcnow() + ahead,
        )
        create(self.driver, made)

    @operation(exception.Conflict, makes='second')
    def create_a(self):
        self.create('second', 'a')

    @operation(exception.Conflict, makes='second')
    def create_b(self):
        self.create('second', 'b')

    @operation(exception.Conflict, makes='third')
    def another_creates_b(self):
        self.create('third', 'b')

    @operation(exception.ApplicationCredentialNotFound)
    def delete(self):
        self.driver.delete_application_credential(self.id('first'))

    @operation(partly=None)
    def delete_for_user(self):
        self.driver.delete_application_credentials_for_user(self.id('user'))

    @operation(partly=None)
    def delete_for_project(self):
        self.driver.delete_application_credentials_for_user_on_project(
            self.id('user'), self.id('project')
        )

    @operation(exception.AccessRuleNotFound)
    def delete_rule(self):
        rules = self.driver.list_access_rules_for_user(
            self.id('user'), Hints()
        )
        for each in rules:
            self.driver.delete_access_rule(each['id'])

    def state(self):
        """Return which of them log in, and are listed, with what."""
        listed = {
            each['id']: each
            for each in self.driver.list_application_credentials_for_user(
                self.id('user'), Hints()
            )
        }
        seen = {'listed': self.labels(listed)}
        for label in LABELS:
            try:
                self.driver.authenticate(self.id(label), 'secret')
            except AssertionError:
                seen[label] = None
            else:
                shown = self.driver.get_application_credential(self.id(label))
                rules = [each['path'] for each in shown['access_rules']]
                seen[label] = shown['name'], shown['roles'], rules
        rules = self.driver.list_access_rules_for_user(
            self.id('user'), Hints()
        )
        seen['rules'] = [each['path'] for each in rules]
        return seen

    def wrong(self):
        user_id = self.id('user')
        keys = {
            name: CREDENTIALS.specs[0].keys(
                self.store, {'user_id': user_id, 'name': name}
            )[0]
            for name in 'ab'
        }
        return wrong_names(self, CREDENTIALS.entity, CREDENTIALS, keys, LABELS)

    def left(self):
        return ghosts(self, CREDENTIALS.entity, LABELS)

    def probe(self):
        """A name that nobody has can be had, and one that is had cannot."""
        wrong = []
        there = self.driver.list_application_credentials_for_user(
            self.id('user'), Hints()
        )
        for name in 'ab':
            said = told(self.create, 'probe', name)
            if said == DONE:
                self.driver.delete_application_credential(self.id('probe'))
            if (said == DONE) is (name in [each['name'] for each in there]):
                wrong.append(f'{said} to who wants {name}')
        return wrong


class TestExpiring(Generated):
    world = ApplicationCredentials


class LastingCredentials(ApplicationCredentials):
    """One that never expires."""

    hours = None


class TestLasting(Generated):
    world = LastingCredentials
    test_pairs = None  # they meet as the others do


def test_one_name_has_one_owner(driver):
    user_id = uuid.uuid4().hex
    outcomes = []
    start = threading.Barrier(CREATORS)

    def race():
        made = new(user_id=user_id)
        start.wait(faults.PATIENCE)
        try:
            create(driver, made)
            outcomes.append('made')
        except exception.Conflict:
            outcomes.append('conflict')
        except errors.StoreUnavailable as error:
            outcomes.append(repr(error))

    threads = [threading.Thread(target=race) for _ in range(CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(faults.PATIENCE)
    assert len(outcomes) == CREATORS
    found = driver.list_application_credentials_for_user(user_id, Hints())
    assert len(found) == outcomes.count('made') <= 1
    assert outcomes.count('conflict') >= CREATORS // 2
