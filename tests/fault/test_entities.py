# SPDX-License-Identifier: Apache-2.0
"""Entities and their indexes under crashes, lost replies and races.

Shown on credentials, which move in three indexes and whose ids come back.
"""

import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers import credential
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.catalog import endpoints, regions
from keystone_cassandra_token.drivers.credential import CREDENTIALS
from keystone_cassandra_token.drivers.identity import federation, groups, users
from keystone_cassandra_token.drivers.limit import limits
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables import reconcile
from tests.fault import faults

INDEXES = (credential.BY_USER, credential.BY_PROJECT, credential.BY_TYPE)


@pytest.fixture
def driver(store):
    return credential.Credential()


def new(**values):
    return {
        'id': uuid.uuid4().hex,
        'user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'type': uuid.uuid4().hex,
        'encrypted_blob': 'secret',
        'key_hash': 'hash',
        'note': 'first',
        **values,
    }


def make(driver, **values):
    made = new(**values)
    driver.create_credential(made['id'], made)
    return made


def get(driver, credential_id):
    try:
        return driver.get_credential(credential_id)
    except exception.CredentialNotFound:
        return None


def listed(driver, values):
    """Return in which of the indexes' lists an entity is."""
    return [
        values['id']
        in {
            stored['id']
            for stored in CREDENTIALS.find_by(
                driver.db, index, values[index.column]
            )
        }
        for index in INDEXES
    ]


def index_rows(driver, values):
    """Return how many index rows there are for an entity's values."""
    return [
        len(index.ids(driver.db, values[index.column])) for index in INDEXES
    ]


def moved(values):
    return {
        name: uuid.uuid4().hex for name in ('user_id', 'project_id', 'type')
    } | {'note': 'second'}


class TestCrashes:
    def test_create(self, driver, store):
        for _, values in faults.each_crash(
            store, new, lambda made: driver.create_credential(made['id'], made)
        ):
            found = get(driver, values['id'])
            assert listed(driver, values) == [found is not None] * 3
            if found is None:
                # The same call again, with the same id.
                driver.create_credential(values['id'], values)
                assert listed(driver, values) == [True] * 3
            assert get(driver, values['id']) == values

    def test_change(self, driver, store):
        def prepare():
            old = make(driver)
            return old, old | moved(old)

        outcomes = []
        for _, (old, wanted) in faults.each_crash(
            store,
            prepare,
            lambda made: driver.update_credential(made[0]['id'], made[1]),
        ):
            found = get(driver, old['id'])
            assert found in (old, wanted)
            assert listed(driver, old) == [found == old] * 3
            assert listed(driver, wanted) == [found == wanted] * 3
            outcomes.append(found == wanted)
            driver.update_credential(old['id'], wanted)
            assert get(driver, old['id']) == wanted
            assert listed(driver, wanted) == [True] * 3
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)
        assert index_rows(driver, old) == [0] * 3

    def test_remove(self, driver, store):
        for _, values in faults.each_crash(
            store,
            lambda: make(driver),
            lambda made: driver.delete_credential(made['id']),
        ):
            found = get(driver, values['id'])
            assert listed(driver, values) == [found is not None] * 3
            if found is not None:
                driver.delete_credential(values['id'])
                assert get(driver, values['id']) is None
            with pytest.raises(exception.CredentialNotFound):
                driver.delete_credential(values['id'])

    def test_remove_all_of_a_user(self, driver, store):
        def prepare():
            owner = uuid.uuid4().hex
            return [make(driver, user_id=owner) for _ in range(3)]

        def remove(made):
            driver.delete_credentials_for_user(made[0]['user_id'])

        left = []
        for _, made in faults.each_crash(store, prepare, remove):
            there = [get(driver, each['id']) is not None for each in made]
            for each, found in zip(made, there, strict=True):
                assert listed(driver, each) == [found] * 3
            left.append(sum(there))
            remove(made)
            for each in made:
                assert get(driver, each['id']) is None
                assert listed(driver, each) == [False] * 3
        assert left == sorted(left, reverse=True)
        assert set(left) == {0, 1, 2, 3}


class TestLostReplies:
    """A serial read tells what became of a change."""

    def test_create(self, driver, store):
        values = new()
        with faults.lose_reply(store, CREDENTIALS.insert):
            assert driver.create_credential(values['id'], values) == values
        assert listed(driver, values) == [True] * 3

    def test_create_that_was_refused(self, driver, store):
        values = make(driver)
        other = new(id=values['id'])
        with (
            faults.lose_reply(store, CREDENTIALS.insert),
            pytest.raises(exception.Conflict),
        ):
            driver.create_credential(other['id'], other)
        assert get(driver, values['id']) == values
        assert index_rows(driver, other) == [0] * 3

    @pytest.mark.parametrize('moves', [True, False])
    def test_change(self, driver, store, moves):
        values = make(driver)
        changes = moved(values) if moves else {'note': 'second'}
        with faults.lose_reply(store, CREDENTIALS.update):
            driver.update_credential(values['id'], changes)
        assert get(driver, values['id']) == values | changes
        assert listed(driver, values | changes) == [True] * 3

    def test_remove(self, driver, store):
        values = make(driver)
        with faults.lose_reply(store, CREDENTIALS.delete):
            driver.delete_credential(values['id'])
        assert index_rows(driver, values) == [0] * 3

    @pytest.mark.parametrize('name', ['insert', 'update', 'delete'])
    def test_what_was_not_done_is_told(self, driver, store, name):
        values = make(driver)
        fresh = new()
        call = {
            'insert': lambda: driver.create_credential(fresh['id'], fresh),
            'update': lambda: driver.update_credential(
                values['id'], moved(values)
            ),
            'delete': lambda: driver.delete_credential(values['id']),
        }[name]
        with (
            faults.fail(store, getattr(CREDENTIALS, name)),
            pytest.raises(errors.OutcomeUnknown),
        ):
            call()
        assert get(driver, values['id']) == values
        assert listed(driver, values) == [True] * 3
        assert get(driver, fresh['id']) is None


class TestRaces:
    def test_one_of_two_creators_wins(self, driver, store):
        values = new()
        other = new(id=values['id'])
        with faults.hold(store, CREDENTIALS.insert) as held:
            failures = []

            def create():
                try:
                    driver.create_credential(values['id'], values)
                except exception.Conflict as error:
                    failures.append(error)

            late = threading.Thread(target=create)
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            driver.create_credential(other['id'], other)
            held.release()
            late.join(faults.PATIENCE)
        assert len(failures) == 1
        assert get(driver, values['id']) == other
        assert listed(driver, other) == [True] * 3
        assert index_rows(driver, values) == [0] * 3

    def test_a_change_never_brings_a_deleted_one_back(
        self, driver, store, keyspace
    ):
        values = make(driver)
        with faults.hold(store, CREDENTIALS.update) as held:
            failures = []

            def change():
                try:
                    driver.update_credential(values['id'], moved(values))
                except exception.CredentialNotFound as error:
                    failures.append(error)

            late = threading.Thread(target=change)
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_credential(values['id'])
            held.release()
            late.join(faults.PATIENCE)
        assert len(failures) == 1
        assert get(driver, values['id']) is None
        session = store.sessions.get().session
        assert not session.execute(
            f'SELECT id FROM {keyspace}.credential WHERE id = %s',
            (values['id'],),
        ).one()

    def test_a_change_that_meets_a_next_life_sees_it(self, driver, store):
        values = make(driver)
        again = new(id=values['id'])
        with faults.hold(store, CREDENTIALS.update) as held:
            late = threading.Thread(
                target=lambda: driver.update_credential(
                    values['id'], {'note': 'late'}
                )
            )
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            driver.delete_credential(values['id'])
            driver.create_credential(again['id'], again)
            held.release()
            late.join(faults.PATIENCE)
        # It was read again, and so is a change of what is there now.
        assert get(driver, values['id']) == again | {'note': 'late'}
        assert listed(driver, again) == [True] * 3

    def test_two_that_move_it_to_and_fro(self, driver, store):
        """Who moved it back keeps its index row, however late the other is
        with deleting the row of the place that it had left."""
        there, back = uuid.uuid4().hex, uuid.uuid4().hex
        values = make(driver, user_id=back)
        with faults.hold(store, credential.BY_USER.delete) as held:
            late = threading.Thread(
                target=lambda: driver.update_credential(
                    values['id'], {'user_id': there}
                )
            )
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            driver.update_credential(values['id'], {'user_id': back})
            held.release()
            late.join(faults.PATIENCE)
        assert get(driver, values['id'])['user_id'] == back
        assert [
            stored['id']
            for stored in CREDENTIALS.find_by(
                driver.db, credential.BY_USER, back
            )
        ] == [values['id']]

    def test_changes_of_different_attributes_all_survive(self, driver):
        values = make(driver)
        names = [f'attribute-{number}' for number in range(12)]
        threads = [
            threading.Thread(
                target=lambda name=name: driver.update_credential(
                    values['id'], {name: name}
                )
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(faults.PATIENCE)
        assert get(driver, values['id']) == values | {n: n for n in names}


class TestClocks:
    """Conditional writes decide; no server's clock does."""

    @pytest.mark.parametrize('seconds', [-5, 5])
    def test_another_clock(self, driver, store, seconds):
        values = make(driver)
        with faults.clock_off_by(store, seconds):
            driver.update_credential(values['id'], {'note': 'off'})
        assert get(driver, values['id']) == values | {'note': 'off'}
        driver.update_credential(values['id'], {'note': 'on'})
        assert get(driver, values['id']) == values | {'note': 'on'}
        with faults.clock_off_by(store, seconds):
            driver.delete_credential(values['id'])
        assert get(driver, values['id']) is None
        assert listed(driver, values) == [False] * 3
        driver.create_credential(values['id'], values)
        assert get(driver, values['id']) == values
        assert listed(driver, values) == [True] * 3


def test_of_no_id_there_is_no_entity(store):
    assert CREDENTIALS.find(store, None) is None


#: Entities, their kinds if repair has them, and what a change of one writes
#: beside its incarnation.
REMNANTS = [
    (users.USERS, users.USER_KIND, {'passwords': '[]'}),
    (groups.GROUPS, groups.GROUP_KIND, {'name': 'late'}),
    (projects.PROJECTS, projects.PROJECT_KIND, {'tags': ['late']}),
    (role.ROLES, role.ROLE_KIND, {'name': 'late'}),
    (
        limits.REGISTERED_LIMITS,
        limits.REGISTERED_LIMIT_KIND,
        {'resource_name': 'late'},
    ),
    (federation.IDPS, federation.IDP_KIND, {'protocols': '{}'}),
    (CREDENTIALS, credential.CREDENTIAL_KIND, {'type': 'late'}),
    (endpoints.SERVICES, None, {}),
    (endpoints.ENDPOINTS, None, {'service_id': 'late'}),
    (regions.REGIONS, None, {}),
]


@pytest.mark.parametrize(('entities', 'kind', 'late'), REMNANTS)
def test_a_remnant_of_a_deleted_entity_is_none(
    store, keyspace, entities, kind, late
):
    """A change in another datacenter, later; here it is made by hand."""
    entity = getattr(entities, 'entity', entities)
    given = {'id': uuid.uuid4().hex}
    where = 'bucket = 0 AND id' if entity.together else 'id'
    columns = ''.join(f', {name} = %s' for name in late)
    store.sessions.get().session.execute(
        f'UPDATE {keyspace}."{entity.table}" SET incarnation = now(){columns}'
        f' WHERE {where} = %s',
        [*late.values(), given['id']],
    )
    assert entity.find(store, given['id']) is None
    assert entity.find_all(store, [given['id']]) == []
    assert not entity.remove(store, given['id'])
    # Nor does it stop who looks at all of them, or take the id for ever.
    if kind is not None:
        reconcile.Repair(store, apply=True).run(kind)
    values = {'enabled': True, 'default_limit': 1, 'is_domain': False}
    new = entity.new(
        given | {name: values.get(name, 'new') for name in entity.row.required}
    )
    assert entity.create(store, new)
    assert entity.find(store, given['id']) == new
    assert entity.remove(store, given['id'])
