# SPDX-License-Identifier: Apache-2.0
"""Migration files: numbered, idempotent, additive, fully qualified."""

from __future__ import annotations

import dataclasses
import re
import uuid

from keystone_cassandra_token.schema import (
    describe,
    files,
    lease,
    migrate,
    parse,
)
from keystone_cassandra_token.schema.ddl import (
    AGREEMENT_TIMEOUT,
    STATEMENT_TIMEOUT,
)
from tests import sweep

MIGRATIONS = files.migrations()
STATEMENTS = [
    statement
    for migration in MIGRATIONS
    for statement in migration.statements('ks')
]


def test_levels_have_no_gap() -> None:
    versions = [migration.version for migration in MIGRATIONS]
    assert versions == list(range(1, files.latest() + 1))


@sweep.over(STATEMENTS)
def test_a_statement_can_be_applied_again_and_drops_nothing(
    statement: str,
) -> None:
    assert re.match(
        r'CREATE TABLE IF NOT EXISTS ks\."?[a-z_]+"? \('
        r'|ALTER TABLE IF EXISTS ks\."?[a-z_]+"?'
        r'\s+(?:ADD IF NOT EXISTS|WITH [a-z_]+ =) ',
        statement,
    )
    assert not re.search(r'\bDROP\b', statement)
    assert '{' not in re.sub(r'compaction = \{[^}]*\}', '', statement)
    assert '--' not in statement


@sweep.over(STATEMENTS)
def test_only_options_are_set_without_waiting(statement: str) -> None:
    waits = not statement.startswith('ALTER') or ' ADD ' in statement
    assert parse.sets_options(statement) is not waits


def test_no_coordinator_waits_for_a_replica_that_hangs() -> None:
    for name, table in describe.current().items():
        assert table.options.get('speculative_retry') == "'50ms'", name


def test_ids_are_the_same_on_each_run_and_differ_between_keyspaces() -> None:
    def ids(keyspace: str) -> list[uuid.UUID]:
        return [
            uuid.UUID(found)
            for statement in MIGRATIONS[0].statements(keyspace)
            for found in re.findall(r'WITH id = (\S+)', statement)
        ]

    assert len(set(ids('ks'))) == len(MIGRATIONS[0].statements('ks'))
    assert ids('ks') == ids('ks')
    assert not set(ids('ks')) & set(ids('other'))


def test_a_semicolon_in_a_literal_ends_no_statement() -> None:
    migration = files.Migration(
        9, 'x', "-- one; two\nCREATE a WITH comment = 'b; c';\nCREATE d;\n"
    )
    assert migration.statements('ks') == [
        "CREATE a WITH comment = 'b; c'",
        'CREATE d',
    ]


def test_the_checksum_sees_each_change() -> None:
    first = MIGRATIONS[0]
    changed = dataclasses.replace(first, text=first.text + ' ')
    assert changed.checksum != first.checksum
    assert re.fullmatch('[0-9a-f]{64}', first.checksum)


def test_a_statement_ends_before_its_lease() -> None:
    assert STATEMENT_TIMEOUT + AGREEMENT_TIMEOUT < lease.SECONDS
    for statement in (lease.ACQUIRE, lease.RENEW):
        assert f'USING TTL {lease.SECONDS}' in statement.cql


def test_bookkeeping_is_agreed_on_everywhere(make_conf) -> None:
    from keystone_cassandra_token.db.consistency import Policy

    policy = Policy(
        make_conf(
            global_serial_consistency='LOCAL_SERIAL',
            local_serial_consistency='LOCAL_SERIAL',
        ).cassandra
    )
    for statement in (lease.ACQUIRE, lease.RENEW, lease.RELEASE):
        assert policy.level(statement.operation).serial == 'SERIAL'
    assert policy.level(migrate.RECORD.operation).serial == 'SERIAL'
    for statement in (lease.GET, migrate.GET_RECORD):
        assert policy.level(statement.operation).consistency == 'SERIAL'
