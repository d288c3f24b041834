# SPDX-License-Identifier: Apache-2.0
"""Base tables, and the tables that are derived from them; no I/O.

A driver declares once, as a constant, which tables are derived from a base
table.  ``keystone-cassandra reconcile`` finds these constants and compares the
tables in both directions::

    CREDENTIAL_DERIVED = DerivedTables.of(CREDENTIALS)
    GROUP_DERIVED = DerivedTables.of(GROUPS, 'name')
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeGuard

from keystone_cassandra_token.db import cql
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.entity_statements import is_entity
from keystone_cassandra_token.tables.index import DerivedTable
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import ClaimSpec

BaseRow = Mapping[str, Any]
Step = tuple[cql.Statement, Mapping[str, Any]]


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
    :param rewrite: returns the writes, in their order, that replace a derived
        row which is hidden by a deletion with a later timestamp.
    :param fence: keeps a base row from being written by what was sent before,
        if its creator does not renew its claim after that.
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
        fence: Callable[[Store, str], None] = lambda db, key: None,
    ) -> None:
        self.base_table = table
        self.row = row
        self.key = tuple(key)
        self.tables = tuple(tables)
        self.claim_specs = tuple(claim_specs)
        self.is_expired = is_expired
        self.timestamp_of = timestamp_of
        self.rewrite = rewrite
        self.fence = fence
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
    ) -> DerivedTables:
        """Return the declaration for an entity.

        :param columns: columns from which others are derived, besides those
            of its indexes.
        """
        claim_specs: Iterable[ClaimSpec] = ()
        if isinstance(entities, Named):
            claim_specs = entities.specs
            entities = entities.entity
        indexed = [
            index.column
            for index in entities.indexes
            if index.column in entities.row.columns
        ]
        wanted = dict.fromkeys(
            ('id', *entities.required, 'born', *indexed, *columns)
        )
        return cls(
            entities.table,
            entities.row.part(wanted),
            single_partition=entities.single_partition,
            settle=entities.settling,
            tables=entities.indexes,
            claim_specs=claim_specs,
            required=entities.required,
            fence=entities.fence.put_everywhere,
        )

    def exists(self, base: BaseRow | None) -> TypeGuard[BaseRow]:
        """Return whether a row that was read exists."""
        if base is None:
            return False
        if 'born' in self.row.columns:
            return is_entity(base, self._required)
        return all(base[name] is not None for name in self._required)
