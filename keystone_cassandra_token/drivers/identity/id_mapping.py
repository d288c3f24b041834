# SPDX-License-Identifier: Apache-2.0
"""``keystone.identity.id_mapping`` on Cassandra.

``id_mapping`` is the source of truth, by public id; ``id_mapping_by_local``
finds it by what an identity backend calls the entity, and
``id_mapping_by_domain`` lists a domain's mappings whole, since Keystone asks
for all of them at once.  A creation writes the mapping, its row of the list,
and that by which it is found; a deletion removes them in the reverse order.
So what is listed is there, and after a crash a creation writes all again.

A public id is computed from what it stands for, so two sides that create a
mapping at once write the same, and no agreement is needed.  The three rows
have one timestamp, and a deletion carries that of what was read: a server
whose clock is ahead hides no mapping that is made again afterwards, and one
whose clock is behind still deletes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from keystone.identity.mapping_backends import base

from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.db import changes, clock
from keystone_cassandra_token.db.cql import Statement, read, scan, write
from keystone_cassandra_token.db.rows import Row, text
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.index import (
    ALL_SHARDS,
    DerivedTable,
    shard_of,
)

#: What a backend calls an entity.
_LOCAL = ('domain_id', 'local_id', 'entity_type')

MAPPING = Row(
    public_id=text(64),
    domain_id=text(64, required=True),
    local_id=text(255, required=True),
    entity_type=text(required=True),
)
BY_LOCAL = MAPPING.part([*_LOCAL, 'public_id'])
BY_DOMAIN = Row('domain_id', 'shard', 'entity_type', 'public_id', 'local_id')

_WITH_TIME = f'SELECT {MAPPING}, WRITETIME(local_id) AS written_at'

GET = read(f'{_WITH_TIME} FROM id_mapping WHERE public_id = :public_id')
# Purging without a filter, or by one that no table is made for.
LIST = scan(f'{_WITH_TIME} FROM id_mapping')
INSERT = write(
    f'INSERT INTO id_mapping ({MAPPING}) VALUES ({MAPPING.markers})'
    ' USING TIMESTAMP :written_at'
)
DELETE = write(
    'DELETE FROM id_mapping USING TIMESTAMP :written_at'
    ' WHERE public_id = :public_id'
)

GET_BY_LOCAL = read(
    'SELECT public_id FROM id_mapping_by_local WHERE domain_id = :domain_id'
    ' AND local_id = :local_id AND entity_type = :entity_type'
)
LOCALS = DerivedTable(
    'id_mapping_by_local',
    BY_LOCAL,
    _LOCAL,
    lambda mapping: [{name: mapping[name] for name in BY_LOCAL.columns}],
)

LIST_BY_DOMAIN = read(
    f'SELECT {BY_DOMAIN} FROM id_mapping_by_domain'
    ' WHERE domain_id = :domain_id AND shard = :shard'
)
LIST_BY_TYPE = read(
    f'SELECT {BY_DOMAIN} FROM id_mapping_by_domain'
    ' WHERE domain_id = :domain_id AND shard = :shard'
    ' AND entity_type = :entity_type'
)


def _listed(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a mapping in its domain's list."""
    values = {**mapping, 'shard': shard_of(mapping['public_id'])}
    return {name: values[name] for name in BY_DOMAIN.columns}


DOMAINS = DerivedTable(
    'id_mapping_by_domain',
    BY_DOMAIN,
    ('domain_id', 'shard', 'entity_type', 'public_id'),
    lambda mapping: [_listed(mapping)],
)


def _inserts(
    mapping: Mapping[str, Any],
) -> list[tuple[Statement, Mapping[str, Any]]]:
    """Return the writes of a mapping's three rows, in this order."""
    written_at = {'written_at': clock.micros_of(clock.incarnation())}
    stored = {name: mapping[name] for name in MAPPING.columns}
    by_local = {name: mapping[name] for name in BY_LOCAL.columns}
    return [
        (INSERT, stored | written_at),
        (DOMAINS.put, _listed(stored) | written_at),
        (LOCALS.put, by_local | written_at),
    ]


MAPPING_DERIVED = DerivedTables(
    'id_mapping',
    MAPPING,
    key=['public_id'],
    required=['local_id'],
    settle=None,
    tables=[LOCALS, DOMAINS],
    timestamp_of=lambda mapping: int(mapping['written_at']),
    rewrite=lambda mapping, _table: _inserts(mapping),
)


@dataclasses.dataclass(frozen=True)
class IDMapping:
    """A mapping of a domain's list, read by attribute as a row of SQL."""

    public_id: str
    domain_id: str
    local_id: str
    entity_type: str

    def to_dict(self) -> dict[str, str]:
        """Return it as a dictionary, as a row of SQL does."""
        return dataclasses.asdict(self)


class IDMappings(Driver, base.MappingDriverBase):
    """Public ids of entities of identity backends, in Cassandra."""

    def get_public_id(self, local_entity: Mapping[str, Any]) -> str | None:
        row = self.db.one(GET_BY_LOCAL, BY_LOCAL, **_local(local_entity))
        # What is found by its local id alone is no mapping.
        return (
            row['public_id'] if row and self._get(row['public_id']) else None
        )

    def get_domain_mapping_list(
        self, domain_id: str, entity_type: str | None = None
    ) -> list[IDMapping]:
        return [
            IDMapping(**{name: row[name] for name in MAPPING.columns})
            for row in self._of_domain(domain_id, entity_type)
        ]

    def get_id_mapping(self, public_id: str) -> dict[str, Any] | None:
        found = self._get(public_id)
        return found and {name: found[name] for name in MAPPING.columns}

    def create_id_mapping(
        self, local_entity: Mapping[str, Any], public_id: str | None = None
    ) -> str | None:
        local = _local(local_entity)
        known = self.get_public_id(local)
        if known is not None:
            return known
        if public_id is None:
            # From the entity alone: nothing else can have this one.
            public_id = self.id_generator_api.generate_public_ID(local)
        elif (found := self._get(public_id)) and _local(found) != local:
            return None  # as with SQL: it is another entity's
        mapping = local | {'public_id': public_id}
        lengths.check(mapping, MAPPING, 'id_mapping')
        for statement, binds in _inserts(mapping):
            self.db.run(statement, **binds)
        return public_id

    def delete_id_mapping(self, public_id: str) -> None:
        found = self._get(public_id)
        if found is not None:
            self._delete(found)

    def purge_mappings(self, purge_filter: Mapping[str, Any]) -> None:
        for found in self._candidates(purge_filter):
            if all(
                found[name] == purge_filter[name]
                for name in MAPPING.columns
                if name in purge_filter
            ):
                self._delete(found)

    def _get(self, public_id: str) -> dict[str, Any] | None:
        return self.db.one(GET, MAPPING, public_id=public_id)

    def _of_domain(
        self, domain_id: str, entity_type: str | None
    ) -> Iterable[dict[str, Any]]:
        narrowed = {} if entity_type is None else {'entity_type': entity_type}
        found = self.db.many(
            LIST_BY_TYPE if narrowed else LIST_BY_DOMAIN,
            BY_DOMAIN,
            (
                {'domain_id': domain_id, 'shard': shard, **narrowed}
                for shard in ALL_SHARDS
            ),
        )
        return (row for rows in found for row in rows)

    def _candidates(
        self, purge_filter: Mapping[str, Any]
    ) -> Iterable[dict[str, Any]]:
        """Return the mappings among which a purge looks."""
        if 'public_id' in purge_filter:
            ids = [purge_filter['public_id']]
        elif 'domain_id' in purge_filter:
            of_domain = self._of_domain(
                purge_filter['domain_id'], purge_filter.get('entity_type')
            )
            ids = [row['public_id'] for row in of_domain]
        else:
            return self.db.iterate(LIST, MAPPING)
        keys = ({'public_id': public_id} for public_id in ids)
        found = self.db.many(GET, MAPPING, keys)
        return (row for rows in found for row in rows)

    def _delete(self, found: Mapping[str, Any]) -> None:
        public_id = {'public_id': found['public_id']}
        written_at = {'written_at': found['written_at']}
        for statement, key in (
            (LOCALS.delete_older, LOCALS.key(found)),
            (DOMAINS.delete_older, DOMAINS.key(_listed(found))),
            (DELETE, public_id),
        ):
            self.db.run(statement, **key, **written_at)
        changes.tell(self.db, 'id_mapping', public_id)


def _local(entity: Mapping[str, Any]) -> dict[str, Any]:
    local = {name: entity[name] for name in _LOCAL}
    if isinstance(local['local_id'], bytes):  # as some LDAP servers give it
        local['local_id'] = local['local_id'].decode()
    return local
