# SPDX-License-Identifier: Apache-2.0
"""Base tables, and the tables that are derived from them; no I/O.

A driver declares each of its kinds once, as a constant; ``keystone-cassandra
reconcile`` finds it there, and compares each table that follows with its base
rows and each base row with what should follow::

    CREDENTIAL_DERIVED = DerivedTables.of(CREDENTIALS)
    GROUP_DERIVED = DerivedTables.of(GROUPS, 'name')
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeGuard

from keystone_cassandra_token.db import cql
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import DerivedTable
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import Claims

BaseRow = Mapping[str, Any]
Step = tuple[cql.Statement, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class ClaimSpec:
    """What base rows of a kind hold in one table of claims.

    :ivar keys: returns the keys of a base row's claims.
    """

    claims: Claims
    keys: Callable[[Store, BaseRow], Iterable[Mapping[str, Any]]]


class DerivedTables:
    """One table of base rows, with what follows from it.

    :param table: its name.
    :param row: the columns that decide what follows; no secrets.
    :param key: its primary key.
    :param required: the columns without one of which a row does not exist; the
        first one tells when it was written.
    :param settle: the class of a read that ends what is in progress; None
        where base rows are not written conditionally.
    :param single_partition: whether all are in one partition, ``bucket`` 0.
    :param tables: its index tables.
    :param claim_specs: its unique names; the key is one column then.
    :param is_expired: whether a base row may be without its claims, as one
        whose removal was broken off.
    :param timestamp_of: returns the timestamp with which the rows of a base
        row are added, where they are deleted with one that follows from the
        base row: so that a deletion takes them along, whenever it comes.
    :param rewrite: returns the writes that make up for a row of a base row
        which a later deletion hides then, for one batch.
    """

    def __init__(
        self,
        table: str,
        row: Row,
        *,
        key: Collection[str] = ('id',),
        required: Collection[str] = ('incarnation',),
        settle: Callable[[str], cql.Statement] | None = cql.lwt_local_read,
        single_partition: bool = False,
        tables: Iterable[DerivedTable] = (),
        claim_specs: Iterable[ClaimSpec] = (),
        is_expired: Callable[[BaseRow], bool] = lambda base: False,
        timestamp_of: Callable[[BaseRow], int] | None = None,
        rewrite: Callable[[BaseRow, DerivedTable], list[Step]] | None = None,
    ) -> None:
        self.base_table = table
        self.row = row
        self.key = tuple(key)
        self.tables = tuple(tables)
        self.claim_specs = tuple(claim_specs)
        self.is_expired = is_expired
        self.timestamp_of = timestamp_of
        self.rewrite = rewrite
        self._required = tuple(required)
        birth = self._required[0]
        select = (
            f'SELECT {row}, WRITETIME({birth}) AS written_at,'
            f' TTL({birth}) AS ttl_left FROM {table}'
        )
        where = ' AND '.join(
            [
                *(['bucket = 0'] if single_partition else []),
                *(f'{name} = :{name}' for name in key),
            ]
        )
        # Each of them is looked for in the tables that follow.
        self.all = (
            cql.read(f'{select} WHERE bucket = 0')
            if single_partition
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
        also: Iterable[ClaimSpec] = (),
    ) -> DerivedTables:
        """Return the kind of an entity.

        :param columns: those that decide what follows, besides the columns
            of its indexes.
        :param also: unique names besides the one of a :class:`Named`.
        """
        claim_specs = [*also]
        if isinstance(entities, Named):
            claim_specs.insert(0, ClaimSpec(entities.claims, entities.keys))
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
            single_partition=entities.single_partition,
            tables=entities.indexes,
            claim_specs=claim_specs,
            required=entities.required,
        )

    def exists(self, base: BaseRow | None) -> TypeGuard[BaseRow]:
        """Return whether a row that was read exists."""
        return base is not None and all(
            base[name] is not None for name in self._required
        )
