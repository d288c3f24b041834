# SPDX-License-Identifier: Apache-2.0
"""All tables of entities that are changed, and values for their columns."""

from __future__ import annotations

import datetime
from typing import Any

from keystone_cassandra_token.db import rows
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.named import Named
from tests import statements

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)

#: A value of each kind of column, by how it is encoded.
VALUES = {
    rows.plain.encode: 'x',
    rows.number.encode: 1,
    rows.any_text.encode: 'x',
    rows.micros.encode: NOW,
    rows.iso_date.encode: NOW.date(),
    rows.json_text.encode: [],
    rows.text_list.encode: ['x'],
    rows.json_map.encode: {'x': 'y'},
}
#: Columns that are stored as they are, and are no text.
OTHERS = {
    'enabled': True,
    'unrestricted': True,
    'is_domain': True,
    'lock_epoch': 1,
    'identities': {
        '["i", "p", "u"]': {
            'idp_id': 'i',
            'protocol_id': 'p',
            'unique_id': 'u',
            'display_name': 'd',
            'since': 1,
        }
    },
}


#: What is renamed, by which column.
RENAMED = {
    'group': 'name',
    'project': 'name',
    'registered_limit': 'resource_name',
    'role': 'name',
    'user': 'local_name',
}


def _all() -> dict[str, Entity]:
    return {
        entity.table: entity
        for module in statements.modules()
        for value in vars(module).values()
        if isinstance(value, (Entity, Named))
        if hasattr(entity := getattr(value, 'entity', value), 'update')
    }


#: By name.
ALL = _all()


def values_of(entity: Entity) -> dict[str, Any]:
    """Return a value for each column that says something of an entity."""
    return {
        name: OTHERS.get(name, VALUES[column.encode])
        for name, column in entity.row.columns.items()
        if name not in ('id', 'incarnation', 'born')
    }
