# SPDX-License-Identifier: Apache-2.0
"""The statements of unique names."""

from __future__ import annotations

import pytest

from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.tables.unique import Claims, NameTaken

OPERATIONS = {
    Operation.LWT_GLOBAL: Operation.LWT_GLOBAL_READ,
    Operation.LWT_LOCAL: Operation.LWT_LOCAL_READ,
}
WRITES = ('insert', 'replace')


@pytest.fixture(params=OPERATIONS)
def claims(request) -> Claims:
    return Claims('name_claim', 'domain_id', 'name', operation=request.param)


def test_the_texts(claims: Claims) -> None:
    where = 'WHERE domain_id = :domain_id AND name = :name'
    columns = 'owner, stamp, claimed_at'
    assert {name: getattr(claims, name).cql for name in STATEMENTS} == {
        'get': f'SELECT {columns} FROM name_claim {where}',
        'settle': f'SELECT {columns} FROM name_claim {where}',
        'insert': (
            f'INSERT INTO name_claim (domain_id, name, {columns}, state)'
            ' VALUES (:domain_id, :name, :owner, :stamp, :claimed_at,'
            " 'held') IF NOT EXISTS"
        ),
        'replace': (
            'UPDATE name_claim SET owner = :owner, stamp = :stamp,'
            f" claimed_at = :claimed_at, state = 'held' {where}"
            ' IF owner = :seen_owner AND stamp = :seen_stamp'
        ),
        'free': (
            f'DELETE FROM name_claim {where}'
            ' IF owner = :owner AND stamp = :stamp'
        ),
    }


STATEMENTS = ('get', 'settle', *WRITES, 'free')


def test_writes_are_of_one_class_and_never_sent_twice(claims) -> None:
    operation = claims.insert.operation
    for name in (*WRITES, *(f'{name}_expiring' for name in WRITES), 'free'):
        statement: Statement = getattr(claims, name)
        assert statement.operation is operation
        assert not statement.idempotent
    assert claims.settle.operation is OPERATIONS[operation]
    assert claims.get.operation is Operation.READ


@pytest.mark.parametrize('name', WRITES)
def test_the_expiring_ones_differ_by_the_ttl_alone(claims, name) -> None:
    plain = getattr(claims, name)
    expiring = getattr(claims, f'{name}_expiring')
    assert expiring.binds == plain.binds | {'ttl'}
    assert expiring.cql.replace(' USING TTL :ttl', '', 1) == plain.cql


def test_an_update_has_its_ttl_before_set(claims) -> None:
    cql = claims.replace_expiring.cql
    assert cql.startswith('UPDATE name_claim USING TTL :ttl SET ')


def test_names_are_claimed_in_the_whole_deployment_by_default() -> None:
    assert Claims('t', 'a').insert.operation is Operation.LWT_GLOBAL


def test_no_other_class_can_claim() -> None:
    with pytest.raises(KeyError):
        Claims('t', 'a', operation=Operation.WRITE)


def test_taken_tells_by_whom() -> None:
    assert NameTaken('u1').owner == 'u1'
