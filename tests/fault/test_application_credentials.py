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
    ACCESS_RULES,
    CREDENTIALS,
)
from keystone_cassandra_token.tables import unique
from tests.fault import faults

CREATORS = 16


@pytest.fixture
def driver(store, conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield application_credential.ApplicationCredential()
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def impatient(monkeypatch):
    """Let a claim of a process that died be taken over at once."""
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))


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


def make(driver, **more):
    made = new(**more)
    create(driver, made)
    return made


def works(driver, made):
    """Return whether one is there, in all ways in which it can be asked."""
    found = driver.list_application_credentials_for_user(
        made['user_id'], Hints()
    )
    listed = made['id'] in {each['id'] for each in found}
    try:
        driver.authenticate(made['id'], made['secret'])
    except AssertionError:
        assert not listed
        return False
    assert listed
    (shown,) = (each for each in found if each['id'] == made['id'])
    assert shown['roles'] == [{'id': 'role'}]
    assert [r['path'] for r in shown['access_rules']] == ['/servers']
    return True


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    def test_create(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store, new, lambda made: create(driver, made)
        ):
            there = works(driver, made)
            outcomes.append(there)
            again = made | {'id': uuid.uuid4().hex}
            if there:
                with pytest.raises(exception.Conflict):
                    create(driver, again)
            else:
                create(driver, again)
                assert works(driver, again)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: make(driver),
            lambda made: driver.delete_application_credential(made['id']),
        ):
            there = works(driver, made)
            outcomes.append(there)
            if there:
                # Its name is still its own.
                with pytest.raises(exception.Conflict):
                    create(driver, made | {'id': uuid.uuid4().hex})
                driver.delete_application_credential(made['id'])
            assert not works(driver, made)
            again = made | {'id': uuid.uuid4().hex}
            create(driver, again)
            assert works(driver, again)
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    def test_delete_an_access_rule(self, driver, store):
        def prepare():
            made = make(driver)
            driver.delete_application_credential(made['id'])
            (rule,) = driver.list_access_rules_for_user(
                made['user_id'], Hints()
            )
            return made, rule['id']

        for _, (made, rule_id) in faults.each_crash(
            store,
            prepare,
            lambda prepared: driver.delete_access_rule(prepared[1]),
        ):
            left = driver.list_access_rules_for_user(made['user_id'], Hints())
            if left:
                driver.delete_access_rule(rule_id)
            with pytest.raises(exception.AccessRuleNotFound):
                driver.get_access_rule(rule_id)
            again = made | {'id': uuid.uuid4().hex}
            create(driver, again)
            assert works(driver, again)


LOSSES = {
    'claim': CREDENTIALS.claims.insert_expiring,
    'truth': CREDENTIALS.entity.insert_expiring,
    'hold': CREDENTIALS.claims.set_held_expiring,
    'rule': ACCESS_RULES.entity.insert,
}


@pytest.mark.parametrize('name', LOSSES)
def test_a_lost_reply_is_settled(driver, store, name):
    made = new()
    with faults.lose_reply(store, LOSSES[name]):
        create(driver, made)
    assert works(driver, made)


@pytest.mark.parametrize('name', LOSSES)
def test_what_failed_leaves_nothing(driver, store, name, impatient):
    made = new()
    with (
        faults.fail(store, LOSSES[name]),
        pytest.raises(errors.StoreUnavailable),
    ):
        create(driver, made)
    assert not works(driver, made)
    again = made | {'id': uuid.uuid4().hex}
    create(driver, again)
    assert works(driver, again)


@pytest.mark.parametrize(
    'target',
    [
        CREDENTIALS.claims.set_pending_expiring,
        CREDENTIALS.entity.delete,
        CREDENTIALS.claims.free_pending,
    ],
)
def test_a_lost_reply_of_a_deletion_is_settled(driver, store, target):
    made = make(driver)
    with faults.lose_reply(store, target):
        driver.delete_application_credential(made['id'])
    again = made | {'id': uuid.uuid4().hex}
    create(driver, again)
    assert works(driver, again)


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


def test_a_deletion_that_stalls_gives_its_name_to_nobody(
    driver, store, impatient
):
    """Its claim is pending; what it is for is there, and that counts."""
    made = make(driver)
    with faults.hold(store, CREDENTIALS.entity.delete) as held:
        late = threading.Thread(
            target=lambda: driver.delete_application_credential(made['id'])
        )
        late.start()
        assert held.reached.wait(faults.PATIENCE)
        with pytest.raises(exception.Conflict):
            create(driver, made | {'id': uuid.uuid4().hex})
        held.release()
        late.join(faults.PATIENCE)
    create(driver, made | {'id': uuid.uuid4().hex})


def test_who_frees_late_frees_nobody_elses(driver, store, impatient):
    """Deleted, and its name taken over before it is freed."""
    made = make(driver)
    again = made | {'id': uuid.uuid4().hex}
    with faults.hold(store, CREDENTIALS.claims.free_pending) as held:
        late = threading.Thread(
            target=lambda: driver.delete_application_credential(made['id'])
        )
        late.start()
        assert held.reached.wait(faults.PATIENCE)
        create(driver, again)
        held.release()
        late.join(faults.PATIENCE)
    assert works(driver, again)
    with pytest.raises(exception.Conflict):
        create(driver, made | {'id': uuid.uuid4().hex})
