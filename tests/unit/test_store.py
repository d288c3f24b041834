# SPDX-License-Identifier: Apache-2.0
"""The store: what it binds and what it refuses."""

from __future__ import annotations

import datetime
import os
from typing import Any

import cassandra
import pytest
from cassandra import ConsistencyLevel
from cassandra.query import UNSET_VALUE

from keystone_cassandra_token.db import (
    clock,
    consistency,
    cql,
    errors,
    outcome,
    store,
)
from keystone_cassandra_token.db import connection as connections
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers import base, trust
from keystone_cassandra_token.drivers.token import provider as token
from keystone_cassandra_token.drivers.token import revoke

from . import ddl


@pytest.fixture
def db(conf):
    return store.Store(conf)


class Preparer:
    """Prepares as a session does, from the migrations' columns."""

    def __init__(self, statement: cql.Statement, **others: str) -> None:
        self._statement, self._others = statement, others
        self.asked: list[str] = []

    def prepare(self, text: str):
        self.asked.append(text)
        return ddl.prepared(self._statement, **self._others)


@pytest.fixture
def connect(conf):
    """Return a function that makes a connection for one statement."""

    def make(statement: cql.Statement, **others: str) -> Connection:
        return Connection(
            pid=os.getpid(),
            cluster=None,
            session=Preparer(statement, **others),
            policy=consistency.Policy(conf.cassandra),
            keyspace='ks',
            local_dc='dc1',
            prepared={},
            replication={'dc1': 3},
            balancing=connections.balancing(conf.cassandra),
            timeout=5.0,
            deadline=5.0,
        )

    return make


USE = {'attempt': 'uuid', 'seen': 'int', 'left': 'int'}


def test_none_is_unset_on_insert(db, connect) -> None:
    values = token.TOKEN.dump(
        {'id_hash': b'1', 'user_id': 'u', 'methods': [], 'system': None}
    )
    bound = db.bind(connect(token.INSERT), token.INSERT, values | {'ttl': 1})
    stored = dict(
        zip(
            [c.name for c in bound.prepared_statement.column_metadata],
            bound.values,
            strict=True,
        )
    )
    assert stored.pop('id_hash') == b'1'
    assert stored.pop('user_id') == b'u'
    assert stored.pop('methods') == b'\0\0\0\0'  # empty, not unset
    assert stored.pop('ttl') == b'\0\0\0\1'
    assert stored
    assert all(value is UNSET_VALUE for value in stored.values())


def test_none_is_null_on_update(db, connect) -> None:
    statement = cql.write(
        'UPDATE trust SET deleted_at = :deleted_at WHERE id = :id'
    )
    bound = db.bind(
        connect(statement), statement, {'id': '1', 'deleted_at': None}
    )
    assert bound.values == [None, b'1']


def test_binding_leaves_the_given_values_alone(db, connect) -> None:
    values = token.TOKEN.dump({'id_hash': b'1'}) | {'ttl': 1}
    before = dict(values)
    db.bind(connect(token.INSERT), token.INSERT, values)
    assert values == before


@pytest.mark.parametrize(
    'ttl',
    [
        None,
        UNSET_VALUE,
        0,
        -1,
        clock.MAX_TTL + 1,
        2**31,
        1.5,
        '60',
        datetime.timedelta(1),
    ],
)
@pytest.mark.parametrize(
    'statement', [token.INSERT, trust.MARK_DELETED_EXPIRING]
)
def test_a_ttl_that_means_for_ever_or_nothing_is_refused(
    db, connect, statement, ttl
) -> None:
    values = dict.fromkeys(statement.binds, 'x') | {'ttl': ttl}
    with pytest.raises(ValueError, match='a TTL is 1 to'):
        db.bind(connect(statement), statement, values)


@pytest.mark.parametrize('ttl', [1, 3600, clock.MAX_TTL])
def test_a_ttl_that_cassandra_knows_is_bound(db, connect, ttl) -> None:
    values = token.TOKEN.dump({'id_hash': b'1'}) | {'ttl': ttl}
    bound = db.bind(connect(token.INSERT), token.INSERT, values)
    assert bound.values[-1] == ttl.to_bytes(4, 'big')


@pytest.mark.parametrize(
    'values',
    [
        {},
        {'id': '1'},
        {'id': '1', 'deleted_at': 1, 'ttl': 1},
        {'id': '1', 'deletedat': 1},
    ],
)
def test_names_that_do_not_fit_are_refused(db, connect, values) -> None:
    with pytest.raises(TypeError, match='do not fit'):
        db.bind(connect(trust.MARK_DELETED), trust.MARK_DELETED, values)


@pytest.mark.parametrize(
    ('statement', 'values', 'level', 'serial', 'idempotent'),
    [
        (token.GET, {'id_hash': b'1'}, 'LOCAL_QUORUM', None, True),
        (trust.DELETE, {'id': '1'}, 'LOCAL_QUORUM', None, True),
        (trust.GET_EVERYWHERE, {'id': '1'}, 'EACH_QUORUM', None, True),
        (trust.SETTLE_USE, {'id': '1'}, 'SERIAL', None, True),
        (trust.DELETE_USE, {'id': '1'}, 'LOCAL_QUORUM', 'SERIAL', False),
        (
            trust.CLAIMS.free,
            {
                'trustor_user_id': 'a',
                'trustee_user_id': 'b',
                'project_id': 'c',
                'impersonation': True,
                'expires_at': 1,
                'owner': 'd',
                'stamp': clock.incarnation(),
            },
            'LOCAL_QUORUM',
            'LOCAL_SERIAL',
            False,
        ),
    ],
)
def test_the_class_decides_the_levels(
    db, connect, statement, values, level, serial, idempotent
) -> None:
    bound = db.bind(connect(statement), statement, values)
    numbers = ConsistencyLevel.name_to_value
    assert bound.consistency_level == numbers[level]
    assert bound.serial_consistency_level == (
        numbers[serial] if serial else None
    )
    assert bound.is_idempotent is idempotent
    assert bound.routing_key is not None


def test_an_option_changes_the_level(make_conf, connect) -> None:
    conf = make_conf(token_read_consistency='QUORUM')
    connection = connect(token.GET)
    connection.policy = consistency.Policy(conf.cassandra)
    bound = store.Store(conf).bind(connection, token.GET, {'id_hash': b'1'})
    assert bound.consistency_level == ConsistencyLevel.QUORUM


def test_a_statement_is_prepared_once_and_qualified(db, connect) -> None:
    connection = connect(token.GET)
    for _ in range(3):
        db.bind(connection, token.GET, {'id_hash': b'1'})
    (asked,) = connection.session.asked
    assert ' FROM ks."token" WHERE' in asked


# Without contact points whatever would be sent is a StoreUnavailable.

EXISTS = cql.lwt_global('DELETE FROM trust_use WHERE id = :id IF EXISTS')


@pytest.mark.parametrize(
    'steps',
    [
        [(revoke.LOG_EVENT, {}), (trust.DELETE, {'id': '1'})],
        [(trust.DELETE, {'id': '1'}), (token.INSERT, {})],
        [(EXISTS, {'id': '1'}), (trust.DELETE, {'id': '1'})],
    ],
)
def test_a_batch_of_two_classes_is_refused(db, steps) -> None:
    with pytest.raises(TypeError, match='one class'):
        db.run_all(*steps)


def test_a_conditional_batch_of_two_classes_is_refused(db) -> None:
    with pytest.raises(TypeError, match='one class'):
        db.cas_batch((EXISTS, {'id': '1'}), (trust.DELETE, {'id': '1'}))


def test_a_plain_batch_as_a_conditional_one_is_refused(db) -> None:
    with pytest.raises(TypeError, match='not conditional'):
        db.cas_batch((trust.DELETE, {'id': '1'}))


def test_a_conditional_batch_is_refused(db) -> None:
    with pytest.raises(TypeError, match='conditional'):
        db.run_all((EXISTS, {'id': '1'}))


def test_a_conditional_run_is_refused(db) -> None:
    with pytest.raises(TypeError, match='conditional'):
        db.run(EXISTS, id='1')


@pytest.mark.parametrize('statement', [trust.DELETE, trust.GET])
def test_a_plain_cas_is_refused(db, statement) -> None:
    with pytest.raises(TypeError, match='not conditional'):
        db.cas(statement, id='1')


@pytest.mark.parametrize(
    'call',
    [
        lambda db: db.one(trust.GET, trust.TRUST, id='1'),
        lambda db: db.rows(trust.GET, trust.TRUST, id='1'),
        lambda db: list(db.iterate(trust.LIST, trust.TRUST)),
        lambda db: db.many(trust.GET, trust.TRUST, [{'id': '1'}]),
        lambda db: db.run(trust.DELETE, id='1'),
        lambda db: db.cas(trust.DELETE_USE, id='1'),
        lambda db: db.run_all((trust.DELETE, {'id': '1'})),
        lambda db: db.cas_batch((trust.DELETE_USE, {'id': '1'})),
    ],
)
def test_every_verb_is_503_without_contact_points(db, call) -> None:
    with pytest.raises(store.errors.StoreUnavailable) as caught:
        call(db)
    assert '[database] cassandra_node_ips' in caught.value.reason


def test_many_of_nothing_asks_nothing(db) -> None:
    assert db.many(trust.GET, Row('id'), []) == []


@pytest.mark.parametrize('applied', [True, False])
def test_an_outcome_is_true_if_applied(applied) -> None:
    assert bool(outcome.Outcome(applied, {'remaining': 0})) is applied


def test_one_store_for_one_configuration(make_conf) -> None:
    one, other = make_conf(), make_conf()
    assert base.shared(one) is base.shared(one)
    assert base.shared(one) is not base.shared(other)


@pytest.mark.parametrize(
    ('applied', 'row', 'said'),
    [
        (outcome.created('a', 'b'), None, None),
        (outcome.created('a', 'b'), {'incarnation': 'b'}, True),
        (outcome.created('a', 'b'), {'incarnation': 'c'}, False),
        (outcome.deleted('a'), None, True),
        (outcome.deleted('a'), {'incarnation': 'a'}, None),
        (outcome.deleted('a'), {'incarnation': 'c'}, True),
    ],
)
def test_what_a_row_says_of_a_write_whose_reply_was_lost(
    applied: store.Applied, row: dict[str, str] | None, said: bool | None
) -> None:
    assert applied(row) is said


LOST = errors.OutcomeUnknown('x')
LOST.__cause__ = cassandra.OperationTimedOut()
TOLD = errors.OutcomeUnknown('x')
TOLD.__cause__ = cassandra.WriteTimeout('', consistency=1, write_type=1)
DONE, REFUSED = outcome.Outcome(True, {}), outcome.Outcome(False, {'a': 1})


@pytest.mark.parametrize(
    ('written', 'seen', 'said'),
    [
        ([DONE], [], DONE),
        ([REFUSED], [], REFUSED),
        # A look tells.
        ([LOST], [DONE], DONE),
        ([LOST], [REFUSED], REFUSED),
        # It does not, so it is written again, if no node has answered.
        ([LOST, DONE], [None], DONE),
        ([TOLD], [None], TOLD),
        # What was sent first may be what refuses it now, or another one.
        ([LOST, REFUSED], [None, DONE], DONE),
        ([LOST, REFUSED], [None, REFUSED], REFUSED),
        ([LOST, REFUSED], [None, None], LOST),
        # Twice, and no more.
        ([LOST, LOST], [None, DONE], DONE),
        ([LOST, LOST], [None, None], LOST),
    ],
)
def test_a_conditional_write_whose_reply_is_lost(
    written: list[Any], seen: list[Any], said: Any
) -> None:
    def write() -> outcome.Outcome:
        found = written.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    if isinstance(said, Exception):
        with pytest.raises(errors.OutcomeUnknown) as caught:
            outcome.settled(write, lambda: seen.pop(0))
        assert caught.value is said
    else:
        assert outcome.settled(write, lambda: seen.pop(0)) is said
    assert (written, seen) == ([], [])
