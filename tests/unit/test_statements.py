# SPDX-License-Identifier: Apache-2.0
"""Rules that hold for every statement of the package."""

from __future__ import annotations

import collections
import re

from keystone_cassandra_token.db.consistency import CONDITIONAL, Operation
from keystone_cassandra_token.db.cql import Statement
from tests import statements, sweep
from tests.statements import Parsed

#: Markers that are no columns, but say their role.
ROLES = {
    'seen',
    'seen_owner',
    'seen_stamp',
    'left',
    'since',
    'now',
    'after',
    'gone',
}

#: Classes that agree on a table's rows in one way.
AGREEMENTS = {
    Operation.LWT_GLOBAL: 'lwt_global',
    Operation.LWT_GLOBAL_READ: 'lwt_global',
    Operation.LWT_LOCAL: 'lwt_local',
    Operation.LWT_LOCAL_READ: 'lwt_local',
    Operation.SCHEMA: 'schema',
    Operation.SCHEMA_READ: 'schema',
}


STATEMENTS = statements.collected()
TABLES = statements.tables()
PARSED = {
    name: Parsed(statement, TABLES[statement.table])
    for name, statement in STATEMENTS.items()
}
EACH = {
    name: (statement, PARSED[name]) for name, statement in STATEMENTS.items()
}


def test_the_sweep_sees_statements_wherever_they_are() -> None:
    assert {
        'drivers.token.provider.GET',
        'drivers.trust.CLAIMS.replace_expiring',
        'drivers.trust.BY_TRUSTEE.insert_expiring',
        'drivers.trust.BY_TRUSTEE.delete_older',
        'drivers.trust.CLAIMS.free',
        'drivers.trust.TRUST_DERIVED.find_everywhere',
        'drivers.application_credential.ACCESS_RULE_DERIVED.all',
        'drivers.token.revoke.REVOKE',
        'revocation_ttl.RAISE',
        'schema.version.VERSIONS',
        'schema.lease.RENEW',
    } <= STATEMENTS.keys()
    assert {s.table for s in STATEMENTS.values()} == TABLES.keys()


def test_the_ddl_is_understood() -> None:
    tables = TABLES
    log = tables['revocation_log']
    assert log.partition_key == ('bucket', 'shard')
    assert log.clustering == ('revoked_at', 'id')
    assert log.columns['id'] == 'uuid'
    assert len(log.columns) == 7
    assert tables['token'].partition_key == ('id_hash',)
    assert len(tables['token'].columns) == 16
    assert len(tables['trust_claim'].partition_key) == 5
    assert tables['trust_claim'].clustering == ()
    assert tables['trust_by_project'].key == ('project_id', 'shard', 'id')
    assert tables['domain_config'].columns['incarnation'] == 'timeuuid STATIC'


@sweep.over(EACH)
def test_columns_exist(statement: Statement, parsed: Parsed) -> None:
    assert parsed.columns <= parsed.table.columns.keys()


@sweep.over(EACH)
def test_no_shortcut(statement: Statement, parsed: Parsed) -> None:
    assert '*' not in statement.cql
    assert 'ALLOW FILTERING' not in statement.cql.upper()
    assert not re.search(r'\bTOKEN\s*\(', statement.cql)
    assert statement.verb in {'SELECT', 'INSERT', 'UPDATE', 'DELETE'}
    assert '.' not in statement.cql  # the keyspace is put before the table


@sweep.over(EACH)
def test_a_read_knows_its_partition_or_is_a_scan(
    statement: Statement, parsed: Parsed
) -> None:
    if statement.verb != 'SELECT':
        assert not statement.full_scan
        return
    if statement.full_scan:
        assert not parsed.where
        return
    # Then the clustering columns, in order and without a gap.
    partition = len(parsed.table.partition_key)
    assert set(parsed.table.partition_key) <= parsed.exact
    assert len(parsed.bound) >= partition
    assert parsed.bound.keys() == set(parsed.table.key[: len(parsed.bound)])


@sweep.over(EACH)
def test_a_write_names_its_row(statement: Statement, parsed: Parsed) -> None:
    if statement.verb == 'SELECT':
        return
    key = set(parsed.table.key)
    if parsed.written and all(
        parsed.table.columns[name].endswith(' STATIC')
        for name in parsed.written
    ):
        # What a partition has once, is written by the partition's name.
        key = set(parsed.table.partition_key)
    if statement.verb == 'INSERT':
        assert key <= parsed.written.keys()
        assert not parsed.where
    else:
        assert parsed.bound == dict.fromkeys(key, '=')
        assert not key & parsed.written.keys()


@sweep.over(EACH)
def test_conditions_and_classes(statement: Statement, parsed: Parsed) -> None:
    conditional = statement.operation in CONDITIONAL
    assert statement.idempotent is not conditional
    reads = statement.operation.value.endswith('read')
    assert (statement.verb == 'SELECT') is reads


@sweep.over(EACH)
def test_markers_have_the_names_of_their_columns(
    statement: Statement, parsed: Parsed
) -> None:
    named = set()
    for column, value in parsed.written.items():
        if value.startswith(':'):
            assert value[1:] in {column, *ROLES}, value
            named.add(value[1:])
        else:
            # Or where entities are kept together: their one partition.
            assert re.fullmatch(r"'\w+'|null", value) or (
                (column, value) == ('bucket', '0')
            )
    tests = re.findall(r'(\w+) (=|!=|IN|>=?|<=?) :(\w+)', parsed.cql)
    for column, operator, marker in tests:
        wanted = {f'{column}s'} if operator == 'IN' else {column, *ROLES}
        assert marker in wanted, f'{column} {operator} :{marker}'
        named.add(marker)
    # A timestamp or TTL comes from a column or is called what it is.
    rest = statement.binds - named
    apart = {'ttl', 'written_at', 'most'}
    assert rest <= apart
    assert not apart & parsed.table.columns.keys()


def test_no_column_is_written_both_conditionally_and_plainly() -> None:
    ways: dict[tuple[str, str], dict[bool, str]] = collections.defaultdict(
        dict
    )
    for name, statement in STATEMENTS.items():
        conditional = statement.operation in CONDITIONAL
        for column in PARSED[name].written:
            ways[statement.table, column][conditional] = name
    mixed = {where for where, names in ways.items() if len(names) > 1}
    assert not mixed


def test_one_table_is_agreed_on_in_one_way() -> None:
    found = collections.defaultdict(set)
    for statement in STATEMENTS.values():
        if statement.operation in AGREEMENTS:
            found[statement.table].add(AGREEMENTS[statement.operation])
    assert found
    assert not {t: ways for t, ways in found.items() if len(ways) > 1}


def test_all_classes_that_agree_are_known_here() -> None:
    serial = {
        operation
        for operation in Operation
        if operation.name.startswith(('LWT', 'SCHEMA'))
    }
    assert serial == AGREEMENTS.keys()


def test_where_rows_expire_every_rewrite_can_carry_a_ttl() -> None:
    # A cell written without one would outlive its row.
    ttl = re.compile(r' USING TTL (:ttl|\d+)')
    expiring = {
        statement.table
        for statement in STATEMENTS.values()
        if statement.verb == 'INSERT' and ttl.search(statement.cql)
    }
    assert 'trust_use' in expiring
    texts = {statement.cql for statement in STATEMENTS.values()}
    for statement in STATEMENTS.values():
        if (
            statement.table not in expiring
            or statement.verb != 'UPDATE'
            or ttl.search(statement.cql)
        ):
            continue
        assert (
            statement.cql.replace(' SET ', ' USING TTL :ttl SET ', 1) in texts
        )


def test_tokens_receipts_and_revocations_always_expire() -> None:
    for name, statement in STATEMENTS.items():
        if statement.table in {
            'token',
            'receipt',
            'revocation',
            'revocation_log',
        }:
            if statement.verb == 'SELECT':
                continue
            assert statement.verb == 'INSERT', name
            assert 'TTL :ttl' in statement.cql, name


def test_reconcile_reads_no_secrets() -> None:
    derived = [name for name in STATEMENTS if '_DERIVED.' in name]
    assert len(derived) > 25
    for name in derived:
        assert not {
            column
            for column in PARSED[name].columns
            if re.search('secret|blob|hash|password|extra', column)
        }, name


def test_reconcile_writes_no_entity() -> None:
    for name, statement in STATEMENTS.items():
        if '_DERIVED.' in name:
            assert statement.verb == 'SELECT', name


def test_a_revocation_has_the_timestamp_of_its_value() -> None:
    revoke = STATEMENTS['drivers.token.revoke.REVOKE']
    assert revoke.cql.endswith('USING TTL :ttl AND TIMESTAMP :issued_before')


def test_statements_are_constants_in_upper_case() -> None:
    for module in statements.modules():
        for name, value in vars(module).items():
            if isinstance(value, Statement):
                assert re.fullmatch(r'_?[A-Z][A-Z_]*', name), name
