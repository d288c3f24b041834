# SPDX-License-Identifier: Apache-2.0
"""All statements of the package, found where they are, and parsed."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

import keystone_cassandra_token as package
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.schema import files, parse


def modules() -> Iterator[object]:
    for found in pkgutil.walk_packages(
        package.__path__, package.__name__ + '.'
    ):
        if found.name != f'{package.__name__}.wsgi':  # which is a server
            yield importlib.import_module(found.name)


def held(
    path: str, value: object, depth: int = 3
) -> Iterator[tuple[str, Statement]]:
    """Yield the statements in an object, with their paths."""
    if isinstance(value, Statement):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from held(f'{path}.{number}', each, depth)
    elif depth and (
        value.__class__.__module__.startswith(package.__name__)
        and not isinstance(value, type)
        and hasattr(value, '__dict__')
    ):
        for name, each in vars(value).items():
            yield from held(f'{path}.{name}', each, depth - 1)


@functools.cache
def collected() -> Mapping[str, Statement]:
    """Return all statements, each once, by where they are defined."""
    found: dict[str, Statement] = {}
    for module in modules():
        short = module.__name__.removeprefix(package.__name__ + '.')
        for name, value in vars(module).items():
            for path, statement in held(f'{short}.{name}', value):
                if statement not in found.values():
                    found[path] = statement
    return found


@functools.cache
def tables() -> Mapping[str, parse.Table]:
    """Return the tables that the migrations make, by name."""
    return made(files.migrations())


def made(migrations: tuple[files.Migration, ...]) -> dict[str, parse.Table]:
    """Return the tables that some migrations make, by name."""
    return parse.tables(
        statement
        for migration in migrations
        for statement in migration.statements('ks')
    )


class Parsed:
    """Parts of a statement, by the few shapes that this package writes."""

    def __init__(self, statement: Statement, table: parse.Table) -> None:
        self.cql = ' '.join(statement.cql.split())
        self.table = table
        text, _, condition = self.cql.partition(' IF ')
        head, _, where = text.partition(' WHERE ')
        self.where = where.split(' AND ') if where else []
        self.condition = re.findall(r'(\w+) !?= ', condition)
        self.selected: list[str] = []
        self.written: dict[str, str] = {}
        if statement.verb == 'SELECT':
            listed = head.removeprefix('SELECT ').split(' FROM ')[0]
            self.selected = [
                re.sub(r'^(?:TTL|WRITETIME)\((\w+)\) AS \w+$', r'\1', item)
                for item in listed.split(', ')
                # What a node says of itself is no column.
                if not item.startswith('toUnixTimestamp(now())')
            ]
        elif statement.verb == 'INSERT':
            columns, values = re.match(
                r'INSERT INTO \w+ \((.*?)\) VALUES \((.*?)\)', head
            ).groups()
            self.written = dict(
                zip(columns.split(', '), values.split(', '), strict=True)
            )
        elif statement.verb == 'UPDATE':
            assigned = head.partition(' SET ')[2]
            self.written = {
                # What is added to a map: "name = name + :name".
                name: re.sub(rf'^{name} [+-] ', '', value)
                for name, value in (
                    item.split(' = ', 1) for item in assigned.split(', ')
                )
            }
        elif statement.verb == 'DELETE':
            some = head.removeprefix('DELETE').split('FROM')[0].strip()
            self.written = dict.fromkeys(
                some.split(', ')
                if some
                else self.table.columns.keys() - set(self.table.key),
                'null',
            )

    @property
    def bound(self) -> dict[str, str]:
        """Columns of WHERE with their operators."""
        return dict(
            re.match(r'(\w+) (=|IN|>=?|<=?) ', part).groups()
            for part in self.where
        )

    @property
    def exact(self) -> set[str]:
        return {name for name, op in self.bound.items() if op in {'=', 'IN'}}

    @property
    def columns(self) -> set[str]:
        return {*self.selected, *self.written, *self.bound, *self.condition}
