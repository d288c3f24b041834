# SPDX-License-Identifier: Apache-2.0
"""An entity is what is born: what a change leaves of a deleted one is none.

And what servers of the former version wrote, without ``born`` and stamps, is
an entity all the same.
"""

import datetime
import uuid

import pytest

from keystone_cassandra_token.db import clock, rows
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.named import Named
from tests import statements
from tests.contract import damage

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)

#: A value of each kind of column, by how it is encoded.
VALUES = {
    rows.plain.encode: 'x',
    rows.number.encode: 1,
    rows.any_text.encode: 'x',
    rows.micros.encode: NOW,
    rows.iso_date.encode: NOW.date(),
    rows.json_text.encode: [],
    rows.text_list.encode: ['x'],
    rows.json_map.encode: {'x': 'y'},
}
#: Columns that are stored as they are, and are no text.
OTHERS = {
    'enabled': True,
    'unrestricted': True,
    'is_domain': True,
    'lock_epoch': 1,
}


#: What is renamed, by which column.
RENAMED = {
    'group': 'name',
    'project': 'name',
    'registered_limit': 'resource_name',
    'role': 'name',
    'user': 'local_name',
}


def entities():
    """Return all tables of entities that are changed, by name."""
    return {
        entity.table: entity
        for module in statements.modules()
        for value in vars(module).values()
        if isinstance(value, (Entity, Named))
        if hasattr(entity := getattr(value, 'entity', value), 'update')
    }


def values_of(entity):
    return {
        name: OTHERS.get(name, VALUES[column.encode])
        for name, column in entity.row.columns.items()
        if name not in ('id', 'incarnation', 'born')
    }


@pytest.mark.parametrize('entity', entities().values(), ids=entities())
def test_a_change_elsewhere_brings_nothing_back(store, entity):
    """One region deletes what another one changes, all of it, and later."""
    new = entity.new({'id': uuid.uuid4().hex, **values_of(entity)})
    assert entity.create(store, new)
    assert entity.discard(store, new)
    connection = store.sessions.get()
    text = entity.update.text(connection.keyspace).partition(' IF ')[0]
    change = connection.session.prepare(text)
    changed = entity.row.encode(values_of(entity))
    changed |= {'id': new['id'], 'incarnation': clock.incarnation()}
    connection.session.execute(change.bind(changed))
    assert store.one(entity.get, entity.row, id=new['id'])['incarnation']
    assert entity.find(store, new['id']) is None
    assert entity.find_all(store, [new['id']]) == []
    if entity.single_partition:
        assert new['id'] not in [each['id'] for each in entity.all(store)]
    # It does not keep its id from being used again, either.
    again = entity.new({'id': new['id'], **values_of(entity)})
    assert entity.create(store, again)
    assert entity.find(store, new['id']) == again
    assert entity.discard(store, again)


class TestFormerVersion:
    @pytest.fixture(params=damage.NAMED)
    def case(self, request):
        return damage.case_of(request.param)

    @pytest.fixture
    def named(self, case):
        return damage.NAMED[case.maker]

    @pytest.fixture
    def made(self, store, case, named):
        """What makes an entity; it is as a former version has written it."""
        given = damage.fresh(*case.given)
        case.make(**given)
        self.strip(store, named, given['id'])
        return given

    def strip(self, store, named, entity_id):
        entity = named.entity
        found = entity.find(store, entity_id)
        session = store.sessions.get().session
        keyspace = store.conf.cassandra.keyspace
        where = 'bucket = 0 AND ' if entity.single_partition else ''
        session.execute(
            f'UPDATE {keyspace}."{entity.table}" SET born = null,'
            f' stamps = null, incarnation = %s WHERE {where}id = %s',
            (uuid.uuid1(1 << 40), entity_id),
        )
        for spec in named.specs:
            for key in spec.keys(store, found):
                where = ' AND '.join(f'{name} = %s' for name in key)
                session.execute(
                    f'UPDATE {keyspace}.{spec.claims.table} SET stamp = null'
                    f' WHERE {where}',
                    list(key.values()),
                )

    def test_it_is_there_and_stays(self, store, named, made):
        assert named.entity.find(store, made['id'])['born'] is None
        if named.entity.is_expiring:
            return  # no fence is needed where nothing changes
        named.entity.fence.put(store, made['id'])
        assert named.entity.find(store, made['id'])['born']

    def test_its_name_is_free_after_it(self, store, case, named, made):
        assert named.remove(store, made['id'])
        assert named.entity.find(store, made['id']) is None
        case.make(**made | damage.fresh('id'))

    @pytest.mark.parametrize('case', RENAMED, indirect=True)
    def test_its_name_is_free_once_it_has_another(
        self, store, case, named, made
    ):
        new = {RENAMED[case.maker]: uuid.uuid4().hex}
        renamed = named.change(store, made['id'], lambda old: new)
        assert renamed['born']
        case.make(**made | damage.fresh('id'))
        assert named.remove(store, made['id'])
