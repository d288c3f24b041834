# SPDX-License-Identifier: Apache-2.0
"""Entities and their indexes under crashes, lost replies and races.

Shown on credentials, which move in three indexes and whose ids come back.
"""

import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.drivers import credential
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.catalog import endpoints, regions
from keystone_cassandra_token.drivers.credential import CREDENTIALS
from keystone_cassandra_token.drivers.identity import federation, groups, users
from keystone_cassandra_token.drivers.limit import limits
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables import reconcile
from tests.fault import faults
from tests.fault.generated import Generated, World, ghosts, operation

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


class Credentials(World):
    """A credential; its user has another one."""

    ages = ()
    kinds = ('credential',)

    def __init__(self, store):
        super().__init__(store)
        self.driver = credential.Credential()
        self.create('first', 'here')
        self.create('beside', 'here', user_id=self.id('user here'))

    def create(self, label, place, **more):
        values = {
            f'{name}_id': self.id(f'{name} {place}')
            for name in ('user', 'project')
        }
        made = new(
            id=self.id(label), type=self.id(f'type {place}'), **values | more
        )
        self.driver.create_credential(made['id'], made)

    def move(self, place):
        self.driver.update_credential(
            self.id('first'),
            {
                'user_id': self.id(f'user {place}'),
                'project_id': self.id(f'project {place}'),
                'type': self.id(f'type {place}'),
                'note': 'second',
            },
        )

    @operation(exception.Conflict)
    def create_second(self):
        self.create('second', 'there')

    @operation(exception.Conflict)
    def create_it_elsewhere(self):
        self.create('second', 'here')

    @operation(exception.Conflict)
    def create_again(self):
        self.create('first', 'there')

    @operation()
    def move_there(self):
        self.move('there')

    @operation()
    def move_back(self):
        self.move('here')

    @operation()
    def note(self):
        self.driver.update_credential(self.id('first'), {'note': 'new'})

    @operation(exception.CredentialNotFound)
    def delete(self):
        self.driver.delete_credential(self.id('first'))

    @operation(partly=None)
    def delete_for_user(self):
        self.driver.delete_credentials_for_user(self.id('user here'))

    @operation(partly=None)
    def delete_for_project(self):
        self.driver.delete_credentials_for_project(self.id('project here'))

    def state(self):
        seen = {}
        for label in ('first', 'second', 'beside'):
            one = get(self.driver, self.id(label))
            places = one and [
                self.labels([one[index.column]]) for index in INDEXES
            ]
            lists = [
                f'{index.column} {place}'
                for index in INDEXES
                for place in ('here', 'there')
                if label
                in self.listed(
                    CREDENTIALS,
                    index,
                    self.id(f'{index.column.removesuffix("_id")} {place}'),
                )
            ]
            seen[label] = (one and one['note'], places, lists)
        return seen

    def wrong(self):
        return [
            f'{label} is in {lists}, and has {places}'
            for label, (_, places, lists) in self.state().items()
            if len(lists) != (len(INDEXES) if places else 0)
        ]

    def left(self):
        return ghosts(self, CREDENTIALS, ('first', 'second'))


class TestCredentials(Generated):
    world = Credentials


class TestRaces:
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


#: Entities, their kinds if reconcile has them, and what a change of one writes
#: beside its incarnation.
GHOST_ROWS = [
    (users.USERS, users.USER_DERIVED, {'passwords': '[]'}),
    (groups.GROUPS, groups.GROUP_DERIVED, {'name': 'late'}),
    (projects.PROJECTS, projects.PROJECT_DERIVED, {'tags': ['late']}),
    (role.ROLES, role.ROLE_DERIVED, {'name': 'late'}),
    (
        limits.REGISTERED_LIMITS,
        limits.REGISTERED_LIMIT_DERIVED,
        {'resource_name': 'late'},
    ),
    (federation.IDPS, federation.IDP_DERIVED, {'protocols': '{}'}),
    (CREDENTIALS, credential.CREDENTIAL_DERIVED, {'type': 'late'}),
    (endpoints.SERVICES, None, {}),
    (endpoints.ENDPOINTS, None, {'service_id': 'late'}),
    (regions.REGIONS, None, {}),
]


@pytest.mark.parametrize(('entities', 'derived', 'late'), GHOST_ROWS)
def test_a_ghost_row_of_a_deleted_entity_is_none(
    store, keyspace, entities, derived, late
):
    """A change in another datacenter, later; here it is made by hand."""
    entity = getattr(entities, 'entity', entities)
    given = {'id': uuid.uuid4().hex}
    where = 'bucket = 0 AND id' if entity.single_partition else 'id'
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
    if derived is not None:
        reconcile.Reconciler(store, apply=True).run(derived)
    values = {'enabled': True, 'default_limit': 1, 'is_domain': False}
    new = entity.new(
        given | {name: values.get(name, 'new') for name in entity.row.required}
    )
    assert entity.create(store, new)
    assert entity.find(store, given['id']) == new
    assert entity.remove(store, given['id'])
