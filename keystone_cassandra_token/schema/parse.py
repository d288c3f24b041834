# SPDX-License-Identifier: Apache-2.0
"""The tables that CQL makes, be it of migrations or of ``current.cql``.

Understands ``CREATE TABLE`` and ``ALTER TABLE`` with ``ADD`` or with options,
which is all that a migration may do.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping

_LITERAL = r"'(?:[^']|'')*'"
_SPACE = re.compile(rf'({_LITERAL})|\s+')
_CREATE = re.compile(
    r'CREATE TABLE (?:IF NOT EXISTS )?(?:\S+\.)?"?(?P<table>\w+)"? ?'
    r'\((?P<columns>.*?)\)(?: WITH (?P<options>.*))?'
)
_ADD = re.compile(
    r'ALTER TABLE (?:IF EXISTS )?(?:\S+\.)?"?(?P<table>\w+)"?'
    r' ADD (?:IF NOT EXISTS )?(?P<columns>.*)'
)
_SET = re.compile(
    r'ALTER TABLE (?:IF EXISTS )?(?:\S+\.)?"?(?P<table>\w+)"?'
    r' WITH (?P<options>.*)'
)
_KEY = 'PRIMARY KEY'
_ORDER = re.compile(r'CLUSTERING ORDER BY \((.*?)\)')
_OPTION = re.compile(rf"(\w+) = ({_LITERAL}|\{{.*?\}}|[^ ']+)")

#: What Cassandra adds to each compaction strategy.
_COMPACTION_DEFAULTS = {'max_threshold': '32', 'min_threshold': '4'}


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    :ivar columns: name -> CQL type, with ``STATIC`` behind where it is so.
    :ivar partition_key: names in order.
    :ivar clustering: names in order, with ``DESC`` behind where it is so.
    :ivar options: name -> CQL literal.
    """

    columns: dict[str, str]
    partition_key: tuple[str, ...]
    clustering: tuple[str, ...]
    options: dict[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the primary key, in order."""
        names = (column.split()[0] for column in self.clustering)
        return (*self.partition_key, *names)


def tables(statements: Iterable[str]) -> dict[str, Table]:
    """Return the tables that statements make, one after the other.

    :raises ValueError: for a statement that is none of a migration.
    """
    found: dict[str, Table] = {}
    for statement in statements:
        text = _normal(statement)
        if created := _CREATE.fullmatch(text):
            found.setdefault(
                created['table'],
                _created(created['columns'], created['options'] or ''),
            )
        elif (added := _ADD.fullmatch(text)) and added['table'] in found:
            more = dict(map(_column, _parts(added['columns'].strip('()'))))
            table = found[added['table']]
            found[added['table']] = dataclasses.replace(
                table, columns=more | table.columns
            )
        elif (others := _SET.fullmatch(text)) and others['table'] in found:
            table = found[others['table']]
            options = table.options | dict(_options(others['options']))
            found[others['table']] = dataclasses.replace(
                table, options=dict(sorted(options.items()))
            )
        else:
            raise ValueError(f'no CREATE TABLE, and no change of one: {text}')
    return found


def sets_options(statement: str) -> bool:
    """Return whether a statement does no more than set options of a table."""
    return bool(_SET.fullmatch(_normal(statement)))


def _normal(statement: str) -> str:
    """Return a statement with its spaces made one, but those of literals."""
    return _SPACE.sub(lambda part: part[1] or ' ', statement)


def compaction(options: Mapping[str, str]) -> str:
    """Return the options of a compaction strategy, as they are compared."""
    own = dict(options)
    strategy = own.pop('class').rpartition('.')[2]
    own = dict(sorted(own.items() - _COMPACTION_DEFAULTS.items()))
    return json.dumps({'class': strategy} | own).replace('"', "'")


def _created(columns: str, options: str) -> Table:
    parts = _parts(columns)
    whole = [part for part in parts if part.startswith(_KEY)]
    inline = [part for part in parts if part.endswith(_KEY)]
    key = [part.split()[0] for part in inline] or _parts(
        whole[0].removeprefix(_KEY).strip()[1:-1]
    )
    order = _ORDER.search(options)
    return Table(
        columns=dict(
            _column(part.removesuffix(_KEY).strip())
            for part in parts
            if part not in whole
        ),
        partition_key=tuple(_parts(key[0].strip('()'))),
        clustering=tuple(
            column.removesuffix(' ASC')
            for column in (_parts(order[1]) if order else key[1:])
        ),
        options=dict(sorted(_options(options))),
    )


def _column(text: str) -> tuple[str, str]:
    name, kind = text.split(' ', 1)
    return name.strip('"'), kind


def _options(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _OPTION.findall(text):
        if name == 'compaction':
            yield name, compaction(ast.literal_eval(value))
        elif name != 'id':  # which says nothing of what the table is
            yield name, value


def _parts(text: str) -> list[str]:
    """Split a list at its commas, but not inside of brackets."""
    parts, depth = [''], 0
    for token in text:
        depth += (token in '(<') - (token in ')>')
        if token == ',' and not depth:
            parts.append('')
        else:
            parts[-1] += token
    return [part.strip() for part in parts]
