# SPDX-License-Identifier: Apache-2.0
"""``current.cql``: read and written, and what is in it."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from keystone_cassandra_token import drivers
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.schema import describe, files, parse
from keystone_cassandra_token.schema.parse import Table
from tests import sweep

CURRENT = describe.current()

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(
        drivers.__path__, drivers.__name__ + '.'
    )
] + [
    importlib.import_module(f'keystone_cassandra_token.{name}')
    for name in ('revocation_ttl', 'db.changes')
]

#: Each row with each statement that reads or writes it.
USES = {
    f'{module.__name__}.{name}:{verb}': (row, statement)
    for module in MODULES
    for name, row in vars(module).items()
    if isinstance(row, Row)
    for verb, statement in vars(module).items()
    if isinstance(statement, Statement)
    and (
        f'SELECT {row} FROM' in statement.cql
        or f'({row}) VALUES' in statement.cql
    )
}


BY_WINDOWS = [
    'token',
    'revocation',
    'revocation_log',
    'failed_login',
    'change_log',
]


@sweep.over(CURRENT.keys())
def test_tables_stay_narrow(name: str) -> None:
    assert len(CURRENT[name].columns) < 31


@sweep.over(CURRENT.keys())
def test_times_are_no_timestamps(name: str) -> None:
    # which keep milliseconds only
    kinds = CURRENT[name].columns.values()
    assert not any('timestamp' in kind for kind in kinds)
    # read with the values of other datacenters, or overwritten by null
    assert not any(kind.startswith(('list', 'set')) for kind in kinds)


@sweep.over(USES)
def test_a_row_has_the_columns_of_its_table(
    row: Row, statement: Statement
) -> None:
    table = CURRENT[statement.table]
    assert set(row.columns) <= table.columns.keys()
    if statement.verb == 'INSERT':
        assert set(table.key) <= set(row.columns)


@pytest.mark.parametrize('table', BY_WINDOWS)
def test_what_expires_is_written_whole(table: str) -> None:
    written = {
        column
        for row, statement in USES.values()
        if statement.table == table and statement.verb == 'INSERT'
        for column in row.columns
    }
    assert written == CURRENT[table].columns.keys()


@pytest.mark.parametrize('table', BY_WINDOWS)
def test_what_expires_goes_by_windows(table: str) -> None:
    options = CURRENT[table].options
    assert 'TimeWindowCompactionStrategy' in options['compaction']
    assert options['gc_grace_seconds'] == '10800'


@sweep.over(CURRENT.keys())
def test_what_is_read_whole_keeps_tombstones_for_a_day(name: str) -> None:
    whole = CURRENT[name].partition_key == ('bucket',)
    grace = CURRENT[name].options.get('gc_grace_seconds')
    assert (grace == '86400') is whole


@sweep.over(CURRENT.keys())
def test_what_readers_check_keeps_tombstones_no_longer_than_hints(
    name: str,
) -> None:
    # Rows of these say by themselves who may do what, or which id is whose.
    trusted = ('grant_by_', 'id_mapping_by_', 'membership_by_user')
    if '_by_' in name and not name.startswith(trusted):
        assert CURRENT[name].options['gc_grace_seconds'] == '10800'


def test_revocations_by_subject_are_repaired_on_read() -> None:
    # A healed replica matters more than a tidy window.
    assert 'read_repair' not in CURRENT['revocation'].options
    assert CURRENT['token'].options['read_repair'] == "'NONE'"


def test_parsing_undoes_writing() -> None:
    table = Table(
        columns={'a': 'text', 'b': 'int', 'c': 'frozen<map<text, int>>'},
        partition_key=('a',),
        clustering=('b DESC',),
        options={'comment': "'it''s; so'", 'gc_grace_seconds': '1'},
    )
    other = Table({'a': 'text'}, ('a',), (), {})
    tables = {'one': table, 'two': other}
    assert parse.tables(files.split(describe.text(tables))) == tables


def test_what_a_migration_may_do_is_understood() -> None:
    assert parse.tables(
        [
            """CREATE TABLE IF NOT EXISTS ks."one" (
                a text, b frozen<list<text>>, c int STATIC,
                PRIMARY KEY ((a, d), b), d int
            ) WITH CLUSTERING ORDER BY (b DESC) AND id = 1-2
                AND compaction = {'class': 'X', 'min_threshold': '4'}
                AND comment = 'with AND = (), it''s  so'""",
            'CREATE TABLE ks.two (level int PRIMARY KEY, e map<text, int>)',
            'ALTER TABLE IF EXISTS ks.one ADD IF NOT EXISTS f map<text, int>',
            'ALTER TABLE ks."two" ADD (g int, h frozen<list<text>>)',
        ]
    ) == {
        'one': Table(
            {
                'a': 'text',
                'b': 'frozen<list<text>>',
                'c': 'int STATIC',
                'd': 'int',
                'f': 'map<text, int>',
            },
            ('a', 'd'),
            ('b DESC',),
            {
                'comment': "'with AND = (), it''s  so'",
                'compaction': "{'class': 'X'}",
            },
        ),
        'two': Table(
            {
                'level': 'int',
                'e': 'map<text, int>',
                'g': 'int',
                'h': 'frozen<list<text>>',
            },
            ('level',),
            (),
            {},
        ),
    }


@pytest.mark.parametrize(
    'statement',
    [
        'DROP TABLE ks.one',
        'ALTER TABLE ks.one DROP a',
        'ALTER TABLE ks.other ADD a int',
    ],
)
def test_what_a_migration_may_not_do_is_not_understood(statement: str) -> None:
    with pytest.raises(ValueError, match='no CREATE TABLE'):
        parse.tables(['CREATE TABLE ks.one (a int PRIMARY KEY)', statement])
