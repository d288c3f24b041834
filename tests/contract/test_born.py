# SPDX-License-Identifier: Apache-2.0
"""An entity is what is born: what a change leaves of a deleted one is none.

And what servers of the former version wrote, without ``born`` and stamps, is
an entity all the same.
"""

import uuid

import cassandra
import pytest

from keystone_cassandra_token.db import clock, errors
from tests import entities
from tests.contract import damage
from tests.fault import faults


@pytest.mark.parametrize('entity', entities.ALL.values(), ids=entities.ALL)
def test_a_change_elsewhere_brings_nothing_back(store, entity):
    """One region deletes what another one changes, all of it, and later."""
    new = entity.new({'id': uuid.uuid4().hex, **entities.values_of(entity)})
    assert entity.create(store, new)
    assert entity.discard(store, new)
    connection = store.sessions.get()
    text = entity.update.text(connection.keyspace).partition(' IF ')[0]
    change = connection.session.prepare(text)
    changed = entity.row.encode(entities.values_of(entity))
    changed |= {'id': new['id'], 'incarnation': clock.incarnation()}
    connection.session.execute(change.bind(changed))
    assert store.one(entity.get, entity.row, id=new['id'])['incarnation']
    assert entity.find(store, new['id']) is None
    assert entity.find_all(store, [new['id']]) == []
    if entity.single_partition:
        assert new['id'] not in [each['id'] for each in entity.all(store)]
    # It does not keep its id from being used again, either.
    again = entity.new({'id': new['id'], **entities.values_of(entity)})
    assert entity.create(store, again)
    assert entity.find(store, new['id']) == again
    assert entity.discard(store, again)


@pytest.mark.parametrize('tries', [1, 2])
@pytest.mark.parametrize('entity', entities.ALL.values(), ids=entities.ALL)
def test_a_late_creation_brings_nothing_back(store, entity, tries):
    """Its reply was lost; it was made all the same, and deleted."""
    values = {'id': uuid.uuid4().hex, **entities.values_of(entity)}
    kept = []

    def keep(statements, send):
        if statements == (entity.insert,) and len(kept) < tries:
            kept.append(send)
            raise cassandra.OperationTimedOut
        return send()

    with faults.intercepted(store, keep):
        try:
            assert entity.create(store, entity.new(values))
        except errors.StoreUnavailable:
            # By who tries again.
            assert entity.create(store, entity.new(values))
    assert len(kept) == tries
    assert entity.discard(store, entity.find(store, values['id']))
    for late in kept:
        late().result()
    assert entity.find(store, values['id']) is None
    if entity.single_partition:
        assert values['id'] not in [each['id'] for each in entity.all(store)]


@pytest.mark.parametrize(
    'entity',
    [each for each in entities.ALL.values() if each.ids_are_given],
    ids=lambda entity: entity.table,
)
def test_of_one_id_made_in_two_regions_the_later_is_left(store, entity):
    """Whole: it has nothing of the other one where it has no value."""
    values = entities.values_of(entity) | {'id': uuid.uuid4().hex}
    assert entity.create(store, entity.new(values))
    least = {name: values[name] for name in entity.required if name in values}
    later = entity.new(least | {'id': values['id']})
    connection = store.sessions.get()
    text = entity.insert.text(connection.keyspace).partition(' IF ')[0]
    stored = entity.stored(later, None)
    del stored['seen']
    connection.session.execute(connection.session.prepare(text).bind(stored))
    assert entity.find(store, values['id']) == later
    assert entity.discard(store, later)


@pytest.mark.parametrize('entity', entities.ALL.values(), ids=entities.ALL)
def test_what_a_change_leaves_as_it_is(store, entity):
    """Another region may be changing it.

    What it is found by has index rows and claims, and is not written again;
    of all else the later change counts.
    """
    values = entities.values_of(entity)
    old = entity.new({'id': uuid.uuid4().hex, **values})
    assert entity.create(store, old)
    connection = store.sessions.get()
    where = 'bucket = 0 AND ' if entity.single_partition else ''
    plain = [name for name in values if name not in entity.map_columns]
    read = (
        f'SELECT {", ".join(f"WRITETIME({n}) AS w_{n}" for n in plain)} FROM'
        f' {connection.keyspace}."{entity.table}" WHERE {where}id = %s'
    )

    def times():
        return connection.session.execute(read, (old['id'],)).one()

    before = times()
    assert entity.change(store, old['id'], values) == old
    after = times()
    assert {
        name for name in plain if after[f'w_{name}'] == before[f'w_{name}']
    } == (entity.placing.intersection(plain))
    assert entity.find(store, old['id']) == old
    assert entity.discard(store, old)


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

    @pytest.mark.parametrize('case', entities.RENAMED, indirect=True)
    def test_its_name_is_free_once_it_has_another(
        self, store, case, named, made
    ):
        new = {entities.RENAMED[case.maker]: uuid.uuid4().hex}
        renamed = named.change(store, made['id'], lambda old: new)
        assert renamed['born']
        case.make(**made | damage.fresh('id'))
        assert named.remove(store, made['id'])
