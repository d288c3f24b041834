# SPDX-License-Identifier: Apache-2.0
"""Kinds of data: truths, and the tables whose rows follow from them; no I/O.

A driver declares each of its kinds once, as a constant; ``keystone-cassandra
repair`` finds it there, and compares each table that follows with its truths
and each truth with what should follow::

    CREDENTIAL_KIND = Kind.of(CREDENTIALS)
    GROUP_KIND = Kind.of(GROUPS, 'name')
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeGuard

from keystone_cassandra_token.db import cql
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Link
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import Claims

Truth = Mapping[str, Any]
Step = tuple[cql.Statement, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Names:
    """What truths of a kind hold in one table of claims.

    :ivar keys: returns the keys of a truth's claims.
    """

    claims: Claims
    keys: Callable[[Store, Truth], Iterable[Mapping[str, Any]]]


class Kind:
    """One table of truths, with what follows from it.

    :param table: its name.
    :param row: the columns that decide what follows; no secrets.
    :param key: its primary key.
    :param always: the columns without one of which a row does not exist; the
        first one tells when it was written.
    :param settle: the class of a read that ends what is in progress; None
        where truths are not written conditionally.
    :param together: whether all are in one partition, ``bucket`` 0.
    :param links: its index tables.
    :param names: its unique names; the key is one column then.
    :param over: whether a truth may be without its claims, as one whose
        removal was broken off.
    :param stamp: returns the timestamp with which the rows of a truth are
        added, where they are deleted with one that follows from the truth:
        so that a deletion takes them along, whenever it comes.
    :param rewrite: returns the writes that make up for a row of a truth
        which a later deletion hides then, for one batch.
    """

    def __init__(
        self,
        table: str,
        row: Row,
        *,
        key: Collection[str] = ('id',),
        always: Collection[str] = ('incarnation',),
        settle: Callable[[str], cql.Statement] | None = cql.mutate_read,
        together: bool = False,
        links: Iterable[Link] = (),
        names: Iterable[Names] = (),
        over: Callable[[Truth], bool] = lambda truth: False,
        stamp: Callable[[Truth], int] | None = None,
        rewrite: Callable[[Truth, Link], list[Step]] | None = None,
    ) -> None:
        self.table = table
        self.row = row
        self.key = tuple(key)
        self.links = tuple(links)
        self.names = tuple(names)
        self.over = over
        self.stamp = stamp
        self.rewrite = rewrite
        self._always = tuple(always)
        birth = self._always[0]
        select = (
            f'SELECT {row}, WRITETIME({birth}) AS written_at,'
            f' TTL({birth}) AS ttl_left FROM {table}'
        )
        where = ' AND '.join(
            [
                *(['bucket = 0'] if together else []),
                *(f'{name} = :{name}' for name in key),
            ]
        )
        # Each of them is looked for in the tables that follow.
        self.all = (
            cql.read(f'{select} WHERE bucket = 0')
            if together
            else cql.scan(select)
        )
        self.find = cql.read(f'{select} WHERE {where}')
        self.find_everywhere = cql.escalated_read(f'{select} WHERE {where}')
        self.settle = settle and settle(f'{select} WHERE {where}')

    @classmethod
    def of(
        cls,
        entities: Entity | Named,
        *columns: str,
        also: Iterable[Names] = (),
    ) -> Kind:
        """Return the kind of an entity.

        :param columns: those that decide what follows, besides the columns
            of its indexes.
        :param also: unique names besides the one of a :class:`Named`.
        """
        names = [*also]
        if isinstance(entities, Named):
            names.insert(0, Names(entities.claims, entities.keys))
            entities = entities.entity
        indexed = [
            index.column
            for index in entities.indexes
            if index.column in entities.row.columns
        ]
        wanted = dict.fromkeys(('id', *entities.required, *indexed, *columns))
        return cls(
            entities.table,
            entities.row.part(wanted),
            together=entities.together,
            links=entities.indexes,
            names=names,
            always=entities.required,
        )

    def is_born(self, truth: Truth | None) -> TypeGuard[Truth]:
        """Return whether a row that was read exists."""
        return truth is not None and all(
            truth[name] is not None for name in self._always
        )
