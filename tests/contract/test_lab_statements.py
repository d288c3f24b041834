# SPDX-License-Identifier: Apache-2.0
"""What the lab counts of the requests of a store."""

import json

import pytest
from lab import statements
from pymysql import connections

from keystone_cassandra_token.db.cql import read, write
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store

ROW = Row('value')
PUT = write(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
).expiring()
GET = read('SELECT value FROM schema_setting WHERE name = :name')
LIST = read('SELECT value FROM schema_setting WHERE name IN :names')


@pytest.fixture
def record(tmp_path, store, monkeypatch):
    store.one(GET, ROW, name='connects')
    # Set to what they are, so as to be set back at the end.
    monkeypatch.setattr(Store, 'interceptors', ())
    execute = '_execute_command'
    monkeypatch.setattr(
        connections.Connection,
        execute,
        getattr(connections.Connection, execute),
    )
    made = statements.Record(str(tmp_path / 'statements'))
    made.watch()
    made.begin()
    return made


def test_what_waits_for_what(record, store, tmp_path):
    names = [f'row-{number}' for number in range(3)]
    store.run_all(*((PUT, {'name': n, 'value': n, 'ttl': 60}) for n in names))
    store.many(GET, ROW, ({'name': name} for name in names))
    assert store.one(GET, ROW, name='row-1') == {'value': 'row-1'}
    record.end({'REQUEST_METHOD': 'GET', 'PATH_INFO': '/v3'})
    (sent,) = statements.read(tmp_path / 'statements')
    assert [(each.wait, each.text) for each in sent] == [
        (1, 'BATCH of 3'),
        *[(2, GET.cql)] * 3,
        (3, GET.cql),
    ]
    line = json.loads((tmp_path / 'statements').read_text())
    assert line['request'] == 'GET /v3'


def test_each_page_is_a_request(record, store, monkeypatch):
    names = [f'row-{number}' for number in range(5)]
    store.run_all(*((PUT, {'name': n, 'value': n, 'ttl': 60}) for n in names))
    prepared = store.sessions.get().prepare(LIST)
    monkeypatch.setattr(prepared, 'fetch_size', 2)
    found = store.rows(LIST, ROW, names=names)
    assert len(found) == 5
    assert [(each.wait, each.text) for each in record.request.sent[1:]] == [
        (wait, LIST.cql) for wait in (2, 3, 4)
    ]
