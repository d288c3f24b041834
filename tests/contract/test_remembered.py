# SPDX-License-Identifier: Apache-2.0
"""What a client's request has read is read again once it may be otherwise."""

import datetime
import uuid

import pytest

from keystone_cassandra_token.db import cql, errors, parts, remembered
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.identity import driver, groups
from keystone_cassandra_token.drivers.token import provider
from tests.fault import faults

ROW = Row('value')
GET = cql.read('SELECT value FROM schema_setting WHERE name = :name')
SETTLE = cql.lwt_global_read(GET.cql)
PUT = cql.write(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
).expiring()
CAS = cql.lwt_global(
    'UPDATE schema_setting SET value = :value WHERE name = :name'
    ' IF value = :seen'
)
WRITES = {
    'plain': lambda store, row: store.run(PUT, **row),
    'each': lambda store, row: store.run_each((PUT, row), (PUT, row)),
    'all': lambda store, row: store.run_all((PUT, row), (PUT, row)),
    'conditional, refused': lambda store, row: store.cas(
        CAS, name=row['name'], value='x', seen='y'
    ),
    'serial read': lambda store, row: store.one(SETTLE, ROW, name='other'),
    'by helpers': lambda store, row: parts.each(
        store, lambda db, each: db.run(PUT, **each), [row] * (parts.FEW + 1)
    ),
}


@pytest.fixture
def name(store):
    made = uuid.uuid4().hex
    put(store, name=made)
    return made


@pytest.fixture
def request_of_a_client():
    with remembered.within_request():
        yield


def put(store, **row):
    store.run(PUT, **({'value': 'former', 'ttl': 60} | row))


def value(store, name):
    return store.one(GET, ROW, name=name)['value']


@pytest.mark.usefixtures('request_of_a_client')
class TestRequest:
    def test_it_reads_once(self, store, name):
        with faults.counted(store) as sent:
            assert value(store, name) == value(store, name) == 'former'
            assert store.one_async(GET, ROW, name=name).result()
            assert store.many(GET, ROW, [{'name': name}])[0]
            assert list(store.iterate(GET, ROW, name=name))
        assert sent == [(GET,)]
        assert store.known(GET, ROW, name=name) == [{'value': 'former'}]
        assert store.known(GET, ROW, name='other') is None

    @pytest.mark.parametrize('write', WRITES.values(), ids=WRITES)
    def test_it_reads_again_after_a_write(self, store, name, write):
        value(store, name)
        write(store, {'name': uuid.uuid4().hex, 'value': 'x', 'ttl': 60})
        assert store.known(GET, ROW, name=name) is None

    def test_it_reads_again_after_a_failure(self, store, name):
        value(store, name)
        with (
            faults.fail(store, SETTLE),
            pytest.raises(errors.StoreUnavailable),
        ):
            store.one(SETTLE, ROW, name=name)
        assert store.known(GET, ROW, name=name) is None

    def test_a_token_lets_it_remember(self, store, name):
        value(store, name)
        ends = datetime.datetime(2050, 1, 1)
        store.run(
            provider.INSERT,
            **provider.TOKEN.dump({'id_hash': b'x', 'expires_at': ends}),
            ttl=1,
        )
        assert store.known(GET, ROW, name=name)

    def test_what_others_write_counts_in_the_next_one(self, store, name):
        assert value(store, name) == 'former'
        with faults.counted(store) as sent, remembered.within_request():
            assert value(store, name) == 'former'
            assert sent


@pytest.mark.usefixtures('store', 'request_of_a_client')
class TestDrivers:
    def test_one_sees_its_own_change(self):
        identity = driver.Identity()
        made = {'id': uuid.uuid4().hex, 'domain_id': 'd'}
        identity.create_group(made['id'], made | {'name': made['id']})
        assert identity.get_group(made['id'])['name'] == made['id']
        identity.update_group(made['id'], {'name': f'new {made["id"]}'})
        assert identity.get_group(made['id'])['name'] == f'new {made["id"]}'
        found = groups.GROUPS.entity.find_all(identity.db, [made['id'], 'x'])
        assert [each['id'] for each in found] == [made['id']]

    def test_one_that_was_read_is_not_read_with_others(self, store):
        identity = driver.Identity()
        ids = sorted(uuid.uuid4().hex for _ in range(2))
        for each in ids:
            identity.create_group(
                each, {'id': each, 'name': each, 'domain_id': 'd'}
            )
        identity.get_group(ids[0])
        with faults.counted(store) as sent:
            found = groups.GROUPS.entity.find_all(store, [*ids, *ids])
            assert [each['id'] for each in found] == [*ids, *ids]
            groups.GROUPS.entity.find_all(store, ids[:1])
        assert sent == [(groups.GROUPS.entity.get_some,)]

    @pytest.mark.parametrize('few', [role.FEW, 0])
    def test_roles_are_read_once(self, store, monkeypatch, few):
        monkeypatch.setattr(role, 'FEW', few)
        roles = role.Role()
        ids = [uuid.uuid4().hex for _ in range(2)]
        for each in ids:
            roles.create_role(each, {'id': each, 'name': each})
        with faults.counted(store) as sent:
            for each in ids:
                assert roles.list_implied_roles(each) == []
                assert roles.get_role(each)['name'] == each
        assert sent.count((role.LIST_FEW,)) == 1
        assert len(sent) == 2 if few else 4
