# SPDX-License-Identifier: Apache-2.0
"""The statements of a table of entities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from keystone_cassandra_token.db import clock, cql, escalation
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import KEEP
from keystone_cassandra_token.tables.index import Indexes


class EntityStatements:
    """One table of entities: its columns, and all that is sent for it.

    :param table: its name.
    :param row: its columns but for ``incarnation``; ``id`` among them.  A row
        without one of those that are required is a ghost row: what a change
        in another datacenter, in the moment of the deletion, has left of an
        entity.
    :param indexes: its index tables.
    :param guarded: columns whose new value is made from the one that was
        read: a change of one is a new incarnation, so that of two at once
        the later one is made again.
    :param private: columns that nobody is shown: a change of them alone is
        not told to other datacenters.
    :param told: columns that tell other datacenters what was changed; none
        if no cache remembers it.
    :param lists_are_remembered: whether a creation is told, too, as it is of
        what is in a single partition.
    :param expiring: whether it can be created with a TTL.  Then it cannot be
        changed: cells that are written later would outlive their row.
    :param everywhere: whether all datacenters agree on each change, so that
        one that is cut off can make none; else its own one does.
    :param ids_are_given: whether callers choose ids, so that two datacenters
        can give one at the same moment.  Then a creation writes its nulls, and
        what is there in the end is no mixture of two.
    :param ids_come_back: whether an id can be used again after a deletion,
        since callers choose it or it is computed.  Then a deletion leaves a
        marker, so that a creation which was sent before finds no free id.  It
        implies the former.
    :param sought_elsewhere: whether one that is not found is sought in other
        datacenters (:mod:`~..db.escalation`).  Then a deletion leaves a
        marker, too: what is deleted here must not be found there.  In a
        single partition it would be in the way: there it is noted apart
        (:mod:`.removals`).
    :param single_partition: whether all are in one partition, ``bucket`` 0;
        for hundreds that are often wanted all at once.
    """

    get_all: cql.Statement
    get_all_everywhere: cql.Statement
    settle_all: cql.Statement

    update: cql.Statement
    insert_expiring: cql.Statement
    bury: cql.Statement

    def __init__(
        self,
        table: str,
        row: Row,
        indexes: Indexes,
        *,
        guarded: Collection[str] = (),
        private: Collection[str] = (),
        told: Collection[str] = ('id',),
        lists_are_remembered: bool = False,
        expiring: bool = False,
        everywhere: bool = False,
        ids_are_given: bool = False,
        ids_come_back: bool = False,
        sought_elsewhere: bool = False,
        single_partition: bool = False,
    ) -> None:
        self.table = table
        self.everywhere = everywhere
        self.settling = cql.lwt_local_read
        conditional = cql.lwt_local
        if everywhere:
            self.settling, conditional = cql.lwt_global_read, cql.lwt_global
        row |= Row('incarnation', 'born')
        self.required = (
            'incarnation',
            *(name for name in row.required if not row.columns[name].secret),
        )
        self.row = row
        self.indexes = indexes
        self.single_partition = single_partition
        self.is_expiring = expiring
        self.map_columns = frozenset(
            name for name, column in row.columns.items() if column.is_map
        )
        self.guarded = frozenset(guarded)
        self.private = frozenset(private)
        self.told = told
        self.tells_creations = single_partition or lists_are_remembered
        self.placing = self.guarded | {
            index.column for index in indexes if index.column in row.columns
        }
        self.changing = [name for name in row.columns if name != 'id']
        where = 'id = :id'
        if single_partition:
            where = f'bucket = 0 AND {where}'
            self.get_all = cql.read(
                f'SELECT {row} FROM {table} WHERE bucket = 0'
            )
            self.settle_all = self.settling(self.get_all.cql)
        some = where.replace('= :id', 'IN :ids')
        self.get = cql.read(f'SELECT {row} FROM {table} WHERE {where}')
        self.get_some = cql.read(
            f'SELECT {row} FROM {table} WHERE {some}'
        ).unpaged()
        self.get_everywhere = cql.escalated_read(self.get.cql)
        if single_partition:
            self.get_all_everywhere = cql.escalated_read(self.get_all.cql)
        self.settle = self.settling(f'SELECT {row} FROM {table} WHERE {where}')
        assigned = ', '.join(f'{name} = :{name}' for name in self.changing)
        # An UPDATE, since a row that was inserted stays without its cells.
        # Of a row that is not there the incarnation is null.
        self.insert = conditional(
            f'UPDATE {table} SET {assigned} WHERE {where}'
            ' IF incarnation = :seen'
        ).sent_once()
        if expiring:
            self.insert_expiring = self.insert.expiring()
        else:
            assignments = ', '.join(
                f'{name} = {name} + :{name}'
                if name in self.map_columns
                else f'{name} = :{name}'
                for name in self.changing
            )
            self.update = conditional(
                f'UPDATE {table} SET {assignments} WHERE {where}'
                ' IF incarnation = :seen'
            )
        self.renumber = conditional(
            f'UPDATE {table} SET incarnation = :incarnation, born = :born'
            f' WHERE {where} IF incarnation = :seen'
        )
        self.delete = conditional(
            f'DELETE FROM {table} WHERE {where} IF incarnation = :seen'
        )
        self.is_buried = ids_come_back or (
            sought_elsewhere and not single_partition
        )
        self.is_noted = sought_elsewhere and not self.is_buried
        self.ids_are_given = ids_are_given or ids_come_back
        if sought_elsewhere:
            escalation.SOUGHT.add(self.get)
        empty = ', '.join(
            f'{name} = null'
            for name in row.columns
            if name not in ('id', 'incarnation')
        )
        self.bury = conditional(
            f'UPDATE {table} SET incarnation = :incarnation, {empty}'
            f' WHERE {where} IF incarnation = :seen'
        ).expiring()

    def stored(self, new: Mapping[str, Any], seen: object) -> dict[str, Any]:
        """Return the values of a creation, as they are stored.

        :param seen: the incarnation that the row has, None if there is none.
        """
        stored = self.row.encode(
            {name: new[name] for name in self.row.columns}
        )
        if seen is None and not self.ids_are_given:
            # A null would be stored, too, as a tombstone.
            stored = {
                name: KEEP if value is None else value
                for name, value in stored.items()
            }
        return stored | {'seen': seen}

    def differing(
        self, old: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the values of a change that are to be written.

        Where an entity is found, and what is guarded, is not written again if
        it stays: another datacenter may be changing it, with index rows and
        claims that this change would know nothing of.  All else is, since the
        later change counts: who disables what is disabled here may be later
        than who has enabled it elsewhere.
        """
        found: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in self.placing:
                found[name] = value
            elif value != old[name]:
                is_map = name in self.map_columns
                found[name] = _differing(old[name], value) if is_map else value
        return found

    def exists(self, stored: Mapping[str, Any]) -> bool:
        """Return whether a row is an entity, and no ghost row or fence."""
        return is_entity(stored, self.required)


def _differing(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the entries of a map that the old one has not."""
    known = old or {}
    return {
        name: value
        for name, value in (new or {}).items()
        if name not in known or known[name] != value
    }


def is_entity(stored: Mapping[str, Any], required: Iterable[str]) -> bool:
    """Return whether a row is an entity: born, and with all that it needs.

    Only a creation writes ``born``, so that neither a fence nor a change which
    another datacenter makes at the moment of the deletion brings one back.
    Servers of older versions did not write it.
    """
    return all(stored[name] is not None for name in required) and (
        stored['born'] is not None or clock.is_former(stored['incarnation'])
    )
