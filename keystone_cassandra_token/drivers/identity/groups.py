# SPDX-License-Identifier: Apache-2.0
"""Groups: their rows, and how Keystone sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone_cassandra_token.compat import extras, listing
from keystone_cassandra_token.db.rows import Row, json_map, text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec

GROUP = Row(
    id=text(64),
    name=text(64, required=True),
    domain_id=text(64, required=True),
    description=text,
    extra=json_map,
)
BY_DOMAIN = Index('group_by_domain', 'domain_id', versioned=True)


def _keys(db: Store, group: Mapping[str, Any]) -> list[dict[str, str]]:
    return [key(db, group['domain_id'], group['name'])]


GROUPS = Named(
    Entity(
        'group',
        GROUP | STAMPS,
        Indexes(BY_DOMAIN),
        guarded=['name', 'domain_id'],
        sought_elsewhere=True,
    ),
    ClaimSpec(
        Claims('group_claim', 'folded_name', 'domain_id', part='folded_name'),
        _keys,
    ),
)
GROUP_DERIVED = DerivedTables.of(GROUPS, 'name')


def key(db: Store, domain_id: str, name: str) -> dict[str, str]:
    """Return the key of a group's claim."""
    comparison = db.conf.cassandra.name_comparison
    return {
        'domain_id': domain_id,
        'folded_name': listing.fold(name, comparison),
    }


def to_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a group names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(given, GROUP, 'group')


def to_ref(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group as the SQL driver returns it."""
    return extras.to_ref(group, GROUP)
