# SPDX-License-Identifier: Apache-2.0
"""What Cassandra refuses, or the driver cannot bind, is no outage."""

from __future__ import annotations

import functools
import logging
import uuid
from typing import Any

import pytest
from keystone import exception

from keystone_cassandra_token.db import cql, errors, outage, store
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers.catalog.regions import REGIONS
from keystone_cassandra_token.drivers.credential import BY_USER, CREDENTIALS
from keystone_cassandra_token.drivers.policy import POLICIES
from tests.contract import damage

#: More than a key can have.
LONG = 'x' * 70_000
#: More than the node takes in one mutation.
HUGE = 'x' * 16_000_000
SURROGATE = 'a\ud800'

#: Of a key that no row can have, even of the wrong kind.
IMPOSSIBLE = [LONG, SURROGATE, None, 5, b'a', ['a'], {'a': 'b'}]

SETTING = Row('name', 'value')
GET = cql.read('SELECT name, value FROM schema_setting WHERE name = :name')
LIST = cql.read('SELECT name, value FROM schema_setting WHERE name IN :names')
PUT = cql.write(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
)
SET = cql.write('UPDATE schema_setting SET value = :value WHERE name = :name')
DELETE = cql.write('DELETE FROM schema_setting WHERE name = :name')
CREATE = cql.lwt_local(f'{PUT} IF NOT EXISTS')
DISCARD = cql.lwt_local(f'{DELETE} IF EXISTS')


def shortly(value: object) -> str:
    return ascii(value)[:20]


@pytest.fixture(autouse=True)
def no_outage(store: store.Store, caplog: pytest.LogCaptureFixture) -> Any:
    """Whatever a test does: no log line of an outage, no value in a line."""
    store.one(GET, SETTING, name='connects')
    with caplog.at_level(logging.INFO):
        yield
    lines = [r for r in caplog.records if r.name == outage.__name__]
    assert not lines
    for text in LONG, HUGE, SURROGATE:
        assert text not in caplog.text


@pytest.fixture
def row(store: store.Store) -> Any:
    """A row that is there."""
    values = {'name': uuid.uuid4().hex, 'value': 'kept'}
    store.run(PUT, **values)
    yield values
    store.run(DELETE, name=values['name'])


@pytest.mark.parametrize('key', ['', *IMPOSSIBLE], ids=shortly)
class TestKey:
    def test_is_not_found(self, store: store.Store, key: Any) -> None:
        assert store.one(GET, SETTING, name=key) is None
        assert store.rows(GET, SETTING, name=key) == []
        assert store.rows_async(GET, SETTING, name=key).result() == []
        assert store.many(GET, SETTING, [{'name': key}]) == [[]]
        assert list(store.iterate(GET, SETTING, name=key)) == []

    def test_is_not_there_to_be_deleted(
        self, store: store.Store, key: Any, row: dict[str, Any]
    ) -> None:
        store.run(DELETE, name=key)
        assert not store.cas(DISCARD, name=key)
        store.run_all((DELETE, {'name': key}), (DELETE, {'name': row['name']}))
        assert store.one(GET, SETTING, name=row['name']) is None

    @pytest.mark.parametrize('statement', [PUT, SET])
    def test_is_not_written(
        self, store: store.Store, key: Any, statement: cql.Statement
    ) -> None:
        binds = {'name': key, 'value': 'x'}
        with pytest.raises(errors.ValueRefused):
            store.run(statement, **binds)
        with pytest.raises(errors.ValueRefused):
            store.run_all((statement, binds))

    def test_is_not_written_on_condition(
        self, store: store.Store, key: Any
    ) -> None:
        binds = {'name': key, 'value': 'x'}
        with pytest.raises(errors.ValueRefused):
            store.cas(CREATE, **binds)
        with pytest.raises(errors.ValueRefused):
            store.cas_batch((CREATE, binds))


@pytest.mark.parametrize('member', ['', LONG, SURROGATE, None], ids=shortly)
def test_the_other_members_of_a_list_are_found(
    store: store.Store, row: dict[str, Any], member: Any
) -> None:
    names = [member, row['name'], member]
    assert store.rows(LIST, SETTING, names=names) == [row]
    assert store.rows(LIST, SETTING, names=[member]) == []


@pytest.mark.parametrize(
    'value', [SURROGATE, HUGE, 5, ['a'], {'a': 'b'}], ids=shortly
)
@pytest.mark.parametrize('statement', [PUT, SET, CREATE], ids=str)
def test_a_value_that_cannot_be_stored(
    store: store.Store, statement: cql.Statement, value: Any
) -> None:
    name = uuid.uuid4().hex
    write = store.cas if statement is CREATE else store.run
    with pytest.raises(exception.ValidationError) as raised:
        write(statement, name=name, value=value)
    assert type(raised.value) is errors.ValueRefused
    assert raised.value.code == 400
    assert raised.value.__cause__ is None
    for text in 'name', 'value IN', 'schema_setting':
        assert f'{text} ' not in str(raised.value)
    # And the connection is as good as before.
    store.run(PUT, name=name, value='x')
    store.run(DELETE, name=name)


@pytest.mark.parametrize(
    'statement',
    [
        cql.read('SELECT name, absent FROM schema_setting WHERE name = :name'),
        cql.write('INSERT INTO schema_setting (name, a) VALUES (:name, 1)'),
        cql.write('DELETE a b c FROM schema_setting WHERE name = :name'),
    ],
    ids=str,
)
def test_a_statement_that_is_wrong_is_one_line_and_500(
    store: store.Store,
    caplog: pytest.LogCaptureFixture,
    statement: cql.Statement,
) -> None:
    ask = functools.partial(store.one, row=SETTING)
    run = ask if statement.verb == 'SELECT' else store.run
    with pytest.raises(errors.StatementRefused) as raised:
        run(statement, name='secret-7')
    assert raised.value.code == 500
    (line,) = [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR
        and not record.name.startswith('cassandra.')
    ]
    assert statement.cql in line.getMessage()
    assert 'secret-7' not in caplog.text


def test_a_missing_table_is_an_outage_still(
    store: store.Store,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not that of the tests before, whose outages may be a moment ago.
    fresh = outage.Outage(outage.Board())
    monkeypatch.setattr(store.sessions, 'outage', fresh)
    absent = cql.read('SELECT name FROM absent WHERE name = :name')
    with pytest.raises(errors.SchemaMissing):
        store.one(absent, SETTING, name='x')
    store.one(GET, SETTING, name='x')
    lines = [r for r in caplog.records if r.name == outage.__name__]
    assert [line.levelname for line in lines] == ['ERROR', 'WARNING']
    caplog.clear()


@pytest.mark.parametrize('key', [LONG, SURROGATE, None, ''], ids=shortly)
def test_entities_and_their_indexes(store: store.Store, key: Any) -> None:
    assert CREDENTIALS.find(store, key) is None
    assert CREDENTIALS.find_all(store, [key]) == []
    assert CREDENTIALS.find_by(store, BY_USER, key) == []
    assert not CREDENTIALS.remove(store, key)
    assert REGIONS.find(store, key) is None
    assert REGIONS.find_all(store, [key]) == []
    assert POLICIES.change(store, key, {'type': 'x'}) is None


def test_a_claim_is_given_back(store: store.Store) -> None:
    """Of a user whose other attribute cannot be stored."""
    maker = damage.Maker()
    values = damage.fresh('id', 'name', 'domain_id')
    with pytest.raises(exception.ValidationError):
        maker.user(**values, **{SURROGATE: 'y'})
    maker.user(**values)
