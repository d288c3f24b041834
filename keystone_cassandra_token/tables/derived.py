# SPDX-License-Identifier: Apache-2.0
"""Base tables, and the tables that are derived from them; no I/O.

A driver declares once, as a constant, which tables are derived from a base
table.  ``keystone-cassandra reconcile`` finds these constants and compares the
tables in both directions::

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
    """Which claims the base rows need in one table of claims.

    :ivar keys: returns the keys of the claims of a base row.
    """

    claims: Claims
    keys: Callable[[Store, BaseRow], Iterable[Mapping[str, Any]]]


class DerivedTables:
    """A base table with the tables that are derived from it.

    :param table: the name of the base table.
    :param row: the columns from which the others are derived; no secrets.
    :param key: its primary key.
    :param required: columns that are not null in any row that exists; the
        first one tells when the row was written.
    :param settle: constructor of a read that completes transactions in
        progress; None if base rows are not written conditionally.
    :param single_partition: whether all are in one partition, ``bucket`` 0.
    :param tables: its index tables.
    :param claim_specs: its unique names; then the key is one column.
    :param is_expired: whether a base row may lack its claims, for example
        because its removal was interrupted.
    :param timestamp_of: returns the timestamp with which derived rows are
        added.  For tables where the timestamp of a deletion is computed from
        the base row: so that a later deletion removes the rows.
    :param rewrite: returns the writes, for one batch, that replace a derived
        row which is hidden by a deletion with a later timestamp.
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
        """Return the declaration for an entity.

        :param columns: columns from which others are derived, besides those
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
