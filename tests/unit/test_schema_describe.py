# SPDX-License-Identifier: Apache-2.0
"""``current.cql``: canonical, and equal to migrations and rows."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from keystone_cassandra_token import drivers
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.schema import describe
from tests import sweep

from . import ddl

CURRENT = describe.parse(describe.packaged())

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(
        drivers.__path__, drivers.__name__ + '.'
    )
] + [importlib.import_module('keystone_cassandra_token.revocation_ttl')]

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


def test_it_is_canonical() -> None:
    assert describe.text(CURRENT) == describe.packaged()


def test_it_is_the_result_of_all_migrations() -> None:
    made = ddl.tables()
    assert CURRENT.keys() == made.keys()
    for name, table in CURRENT.items():
        assert table.columns == {
            column: kind + ' STATIC' * (column in made[name].static)
            for column, kind in made[name].columns.items()
        }, name
        assert table.partition_key == made[name].partition, name
        assert table.clustering == made[name].clustering, name


@sweep.over(CURRENT.keys())
def test_tables_stay_narrow(name: str) -> None:
    assert len(CURRENT[name].columns) < 31


@sweep.over(CURRENT.keys())
def test_times_are_no_timestamps(name: str) -> None:
    # which keep milliseconds only
    kinds = CURRENT[name].columns.values()
    assert not any('timestamp' in kind for kind in kinds)
    # read with the values of other regions, or overwritten by null
    assert not any(kind.startswith(('list', 'set')) for kind in kinds)


@sweep.over(USES)
def test_a_row_has_the_columns_of_its_table(
    row: Row, statement: Statement
) -> None:
    table = CURRENT[statement.table]
    assert set(row.columns) <= table.columns.keys()
    if statement.verb == 'INSERT':
        key = {*table.partition_key, *table.clustering}
        assert key <= set(row.columns)


@pytest.mark.parametrize('table', ['token', 'revocation', 'revocation_log'])
def test_what_expires_is_written_whole(table: str) -> None:
    written = {
        column
        for row, statement in USES.values()
        if statement.table == table and statement.verb == 'INSERT'
        for column in row.columns
    }
    assert written == CURRENT[table].columns.keys()


@pytest.mark.parametrize('table', ['token', 'revocation', 'revocation_log'])
def test_what_expires_goes_by_windows(table: str) -> None:
    options = CURRENT[table].options
    assert 'TimeWindowCompactionStrategy' in options['compaction']
    assert options['gc_grace_seconds'] == '10800'


def test_revocations_by_subject_are_repaired_on_read() -> None:
    # A healed replica matters more than a tidy window.
    assert 'read_repair' not in CURRENT['revocation'].options
    assert CURRENT['token'].options['read_repair'] == "'NONE'"


def test_parsing_undoes_writing() -> None:
    table = describe.Table(
        columns={'a': 'text', 'b': 'int', 'c': 'frozen<map<text, int>>'},
        partition_key=('a',),
        clustering=('b DESC',),
        options={'comment': "'it''s; so'", 'gc_grace_seconds': '1'},
    )
    other = describe.Table({'a': 'text'}, ('a',), (), {})
    tables = {'one': table, 'two': other}
    assert describe.parse(describe.text(tables)) == tables
