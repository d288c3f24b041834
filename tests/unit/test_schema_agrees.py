# SPDX-License-Identifier: Apache-2.0
"""What follows from the migrations: statements, roles, ``current.cql``, page.

Whoever adds a migration is told what else is to be done.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from keystone_cassandra_token import schema
from keystone_cassandra_token.db import cql
from keystone_cassandra_token.schema import describe, files, roles
from tests import statements

PAGE = Path(__file__).parents[2] / 'doc' / 'source' / 'admin'
FOLDER = importlib.resources.files(schema) / 'migrations'

#: Tables that servers read alone.
BOOKKEEPING = {'schema_migration', 'schema_lock'}
#: Columns that servers of a former version alone write and read.
RETIRED = {('user', 'failures')}


@dataclasses.dataclass(frozen=True)
class State:
    """All that must agree with the migrations."""

    migrations: tuple[files.Migration, ...]
    statements: Collection[cql.Statement]
    roles: str
    current: str
    page: str

    def problems(self) -> Iterator[str]:
        """Yield what does not, each text naming what is to be done."""
        tables = statements.made(self.migrations)
        used: dict[str, set[str]] = {name: set() for name in tables}
        for statement in self.statements:
            parsed = statements.Parsed(statement, tables[statement.table])
            for column in parsed.columns - parsed.table.columns.keys():
                yield f'no migration makes {statement.table}.{column}'
            if statement.verb in {'INSERT', 'UPDATE'}:
                used[statement.table] |= parsed.columns
        granted = set(
            re.findall(
                r'^GRANT MODIFY ON ks\."?(\w+)"? TO ks_server;',
                self.roles,
                re.MULTILINE,
            )
        )
        written = tables.keys() - BOOKKEEPING
        for name in written - granted:
            yield f'roles.cql: servers may not write {name}'
        for name in granted - written:
            yield f'roles.cql: servers may write {name}, which they must not'
        current = statements.parse.tables(files.split(self.current))
        for name, table in tables.items():
            retired = {column for of, column in RETIRED if of == name}
            for column in table.columns.keys() - used[name] - retired:
                yield f'no statement writes {name}.{column}'
            if current.get(name) != table:
                yield (
                    f'current.cql: {name} is not what the migrations make;'
                    ' make it anew by `keystone-cassandra schema dump`'
                )
            for word in (name, *table.columns):
                if not re.search(rf'\b{word}\b', self.page):
                    yield f'data-model.rst does not name {word} ({name})'
        if describe.text(current) != self.current:
            yield 'current.cql was edited by hand'
        for name in current.keys() - tables.keys():
            yield f'current.cql: no migration makes {name}'


NOW = State(
    files.read(FOLDER),
    statements.collected().values(),
    roles.text('ks'),
    describe.packaged(),
    (PAGE / 'data-model.rst').read_text('utf-8'),
)


def test_all_agrees() -> None:
    assert list(NOW.problems()) == []


MIGRATION = """\
-- A column, and a table; invented.
ALTER TABLE IF EXISTS {keyspace}.credential ADD IF NOT EXISTS pattern text;
CREATE TABLE IF NOT EXISTS {keyspace}.invention (
    id text PRIMARY KEY,
    pattern text
) WITH comment = 'inventions by id';
"""
INSERTS = (
    cql.write('INSERT INTO invention (id, pattern) VALUES (:id, :pattern)'),
    cql.lwt_local(
        'UPDATE credential SET pattern = :pattern'
        ' WHERE id = :id IF incarnation = :seen'
    ),
)


@pytest.fixture
def migrated(tmp_path: Path) -> State:
    """A migration was added, and everything that follows from it."""
    folder = tmp_path / 'migrations'
    with importlib.resources.as_file(FOLDER) as packaged:
        shutil.copytree(packaged, folder)
    number = files.latest() + 1
    (folder / f'{number:04}_invention.cql').write_text(MIGRATION)
    migrations = files.read(folder)
    assert len(migrations) == number
    return State(
        migrations,
        [*NOW.statements, *INSERTS],
        NOW.roles + 'GRANT MODIFY ON ks.invention TO ks_server;\n',
        describe.text(statements.made(migrations)),
        NOW.page + 'invention: has a pattern, as a credential has.\n',
    )


def test_a_right_migration_agrees(migrated: State) -> None:
    assert list(migrated.problems()) == []
    table = statements.made(migrated.migrations)['credential']
    assert table.columns['pattern'] == 'text'


@pytest.mark.parametrize(
    ('forgotten', 'told'),
    [
        (
            'page',
            {
                'data-model.rst does not name pattern (credential)',
                'data-model.rst does not name pattern (invention)',
                'data-model.rst does not name invention (invention)',
            },
        ),
        ('roles', {'roles.cql: servers may not write invention'}),
        (
            'current',
            {
                f'current.cql: {name} is not what the migrations make; make it'
                ' anew by `keystone-cassandra schema dump`'
                for name in ('credential', 'invention')
            },
        ),
        (
            'statements',
            {
                'no statement writes credential.pattern',
                'no statement writes invention.pattern',
                'no statement writes invention.id',
            },
        ),
    ],
)
def test_what_was_forgotten_is_told(
    migrated: State, forgotten: str, told: set[str]
) -> None:
    state = dataclasses.replace(
        migrated, **{forgotten: getattr(NOW, forgotten)}
    )
    assert set(state.problems()) == told


def test_a_forgotten_migration_is_told(migrated: State) -> None:
    state = dataclasses.replace(
        migrated,
        migrations=NOW.migrations,
        statements=[*NOW.statements, INSERTS[1]],
    )
    assert set(state.problems()) == {
        'no migration makes credential.pattern',
        'roles.cql: servers may write invention, which they must not',
        'current.cql: credential is not what the migrations make; make it'
        ' anew by `keystone-cassandra schema dump`',
        'current.cql: no migration makes invention',
    }


def test_an_edited_current_cql_is_told() -> None:
    state = dataclasses.replace(NOW, current=NOW.current + '\n')
    assert list(state.problems()) == ['current.cql was edited by hand']
