# SPDX-License-Identifier: Apache-2.0
"""Statements."""

from __future__ import annotations

import dataclasses

import pytest

from keystone_cassandra_token.db import cql
from keystone_cassandra_token.db.consistency import CONDITIONAL, Operation


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('SELECT a FROM t', set()),
        ('SELECT a FROM t WHERE a = :a AND b IN :bs', {'a', 'bs'}),
        ('INSERT INTO t (a, b) VALUES (:a, :b)', {'a', 'b'}),
        (
            'UPDATE t USING TTL :ttl AND TIMESTAMP :at SET a=:new_a'
            ' WHERE b=:b',
            {'ttl', 'at', 'new_a', 'b'},
        ),
        ('SELECT a FROM t WHERE a2 = :a2', {'a2'}),
        ("SELECT a FROM t WHERE a = 'x:y'", set()),
        ('SELECT a FROM t WHERE a = ::b', set()),
    ],
)
def test_markers_are_the_bind_names(text: str, names: set[str]) -> None:
    assert cql.read(text).binds == names


@pytest.mark.parametrize(
    ('given', 'wrong'),
    [
        ((), 'id, name'),
        (('id',), 'name'),
        (('id', 'name', 'nmae'), 'nmae'),
        (('id', 'nmae'), 'name, nmae'),
    ],
)
def test_missing_and_extra_names_are_refused(
    given: tuple[str, ...], wrong: str
) -> None:
    statement = cql.write('UPDATE t SET name = :name WHERE id = :id')
    with pytest.raises(TypeError, match=f'^{wrong} do not fit'):
        statement.check(given)


def test_exact_names_fit() -> None:
    statement = cql.write('UPDATE t SET name = :name WHERE id = :id')
    statement.check({'id': 1, 'name': None}.keys())
    statement.check(['name', 'id'])


@pytest.mark.parametrize(
    ('text', 'qualified', 'table', 'verb'),
    [
        (
            'SELECT a FROM t WHERE a = :a',
            'SELECT a FROM ks."t" WHERE a = :a',
            't',
            'SELECT',
        ),
        (
            'INSERT INTO token (a) VALUES (:a)',
            'INSERT INTO ks."token" (a) VALUES (:a)',
            'token',
            'INSERT',
        ),
        (
            'UPDATE a_b SET c = :c WHERE a = :a',
            'UPDATE ks."a_b" SET c = :c WHERE a = :a',
            'a_b',
            'UPDATE',
        ),
        (
            'DELETE FROM a_b WHERE a = :a',
            'DELETE FROM ks."a_b" WHERE a = :a',
            'a_b',
            'DELETE',
        ),
        (
            'SELECT a FROM oauth1_token',
            'SELECT a FROM ks."oauth1_token"',
            'oauth1_token',
            'SELECT',
        ),
        (
            'UPDATE t SET updated_from = :updated_from WHERE a = :a',
            'UPDATE ks."t" SET updated_from = :updated_from WHERE a = :a',
            't',
            'UPDATE',
        ),
    ],
)
def test_tables_are_qualified_and_quoted(
    text: str, qualified: str, table: str, verb: str
) -> None:
    statement = cql.write(text)
    assert statement.text('ks') == qualified
    assert statement.table == table
    assert statement.verb == verb
    assert str(statement) == text


def test_a_statement_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match='no table'):
        _ = cql.write('TRUNCATE t').table


def test_expiring_adds_a_ttl_and_keeps_the_class() -> None:
    plain = cql.token_write('INSERT INTO t (a) VALUES (:a)')
    expiring = plain.expiring()
    assert expiring.cql == 'INSERT INTO t (a) VALUES (:a) USING TTL :ttl'
    assert expiring.binds == {'a', 'ttl'}
    assert expiring.operation is Operation.TOKEN_WRITE
    assert plain.binds == {'a'}


def test_expiring_keeps_a_claim_not_idempotent() -> None:
    expiring = cql.lwt_global(
        'INSERT INTO t (a) VALUES (:a) IF NOT EXISTS'
    ).expiring()
    assert not expiring.idempotent
    assert expiring.operation is Operation.LWT_GLOBAL


def test_an_update_has_its_ttl_before_set() -> None:
    expiring = cql.write('UPDATE t SET a = :a WHERE b = :b').expiring()
    assert expiring.cql == 'UPDATE t USING TTL :ttl SET a = :a WHERE b = :b'


@pytest.mark.parametrize(
    'text',
    [
        'UPDATE t USING TTL :ttl SET a = :a WHERE b = :b',
        'INSERT INTO t (a) VALUES (:a) USING TTL :ttl',
        'INSERT INTO t (a) VALUES (:a) USING TIMESTAMP :at',
        'DELETE FROM t WHERE a = :a',
    ],
)
def test_expiring_refuses_what_has_no_place_for_a_ttl(text: str) -> None:
    with pytest.raises(ValueError, match='cannot add a TTL'):
        cql.write(text).expiring()


_CONDITIONAL_TEXTS = (
    'INSERT INTO t (a) VALUES (:a) IF NOT EXISTS',
    'UPDATE t SET a = :a WHERE b = :b IF a = :seen',
    'DELETE FROM t WHERE a = :a IF EXISTS',
    'DELETE FROM t WHERE a = :a\nIF\nEXISTS',
)


@pytest.mark.parametrize('text', _CONDITIONAL_TEXTS)
@pytest.mark.parametrize(
    'constructor',
    [cql.write, cql.token_write, cql.revocation_write, cql.read],
)
def test_a_condition_needs_a_conditional_class(constructor, text) -> None:
    with pytest.raises(ValueError, match='conditional'):
        constructor(text)


@pytest.mark.parametrize('constructor', [cql.lwt_global, cql.lwt_local])
def test_a_conditional_class_needs_a_condition(constructor) -> None:
    # A column whose name ends in "if" is no condition.
    with pytest.raises(ValueError, match='conditional'):
        constructor('UPDATE t SET notif = :notif WHERE a = :a')


@pytest.mark.parametrize(
    ('constructor', 'operation'),
    [
        (cql.token_read, Operation.TOKEN_READ),
        (cql.token_write, Operation.TOKEN_WRITE),
        (cql.revocation_read, Operation.REVOCATION_READ),
        (cql.revocation_write, Operation.REVOCATION_WRITE),
        (cql.read, Operation.READ),
        (cql.scan, Operation.READ),
        (cql.write, Operation.WRITE),
        (cql.lwt_global, Operation.LWT_GLOBAL),
        (cql.lwt_global_read, Operation.LWT_GLOBAL_READ),
        (cql.lwt_local, Operation.LWT_LOCAL),
        (cql.lwt_local_read, Operation.LWT_LOCAL_READ),
        (cql.escalated_read, Operation.ESCALATED_READ),
    ],
)
def test_constructors_give_their_class(constructor, operation) -> None:
    conditional = operation in CONDITIONAL
    text = 'DELETE FROM t WHERE a = :a' + (' IF EXISTS' if conditional else '')
    statement = constructor(text)
    assert statement.operation is operation
    assert statement.idempotent is not conditional
    assert statement.full_scan is (constructor is cql.scan)


def test_statements_are_told_apart_by_identity_and_frozen() -> None:
    one, other = (cql.read('SELECT a FROM t') for _ in range(2))
    assert one != other
    assert len({one, other}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.cql = ''  # type: ignore[misc]


def test_a_read_of_several_partitions_can_be_unpaged() -> None:
    statement = cql.read('SELECT a FROM t WHERE a IN :as')
    assert statement.paged
    unpaged = statement.unpaged()
    assert not unpaged.paged
    assert unpaged.cql == statement.cql
    with pytest.raises(ValueError, match='one partition, or all'):
        cql.read('SELECT a FROM t WHERE a = :a').unpaged()
