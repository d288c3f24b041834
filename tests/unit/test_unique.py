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
WRITES = ('insert', 'take_over', 'set_held')


@pytest.fixture(params=OPERATIONS)
def claims(request) -> Claims:
    return Claims('name_claim', 'domain_id', 'name', operation=request.param)


def test_the_texts(claims: Claims) -> None:
    where = 'WHERE domain_id = :domain_id AND name = :name'
    columns = 'owner, state, claimed_at'
    assert {name: getattr(claims, name).cql for name in STATEMENTS} == {
        'get': f'SELECT {columns} FROM name_claim {where}',
        'settle': f'SELECT {columns} FROM name_claim {where}',
        'insert': (
            f'INSERT INTO name_claim (domain_id, name, {columns}) VALUES'
            " (:domain_id, :name, :owner, 'pending', :claimed_at)"
            ' IF NOT EXISTS'
        ),
        'take_over': (
            'UPDATE name_claim SET owner = :owner, claimed_at = :claimed_at'
            f" {where} IF owner = :seen AND state = 'pending'"
        ),
        'set_held': (
            f"UPDATE name_claim SET state = 'held' {where} IF owner = :owner"
        ),
        'free': f'DELETE FROM name_claim {where} IF owner = :owner',
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
    for name in ('take_over_expiring', 'set_held_expiring'):
        cql = getattr(claims, name).cql
        assert cql.startswith('UPDATE name_claim USING TTL :ttl SET ')


def test_names_are_claimed_in_the_whole_deployment_by_default() -> None:
    assert Claims('t', 'a').insert.operation is Operation.LWT_GLOBAL


def test_no_other_class_can_claim() -> None:
    with pytest.raises(KeyError):
        Claims('t', 'a', operation=Operation.WRITE)


def test_taken_tells_by_whom() -> None:
    assert NameTaken('u1').owner == 'u1'
