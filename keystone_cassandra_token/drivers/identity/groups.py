# SPDX-License-Identifier: Apache-2.0
"""Groups: their rows, and how Keystone sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone_cassandra_token.compat import lengths, listing
from keystone_cassandra_token.db.rows import Row, json_map
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import Claims

ATTRIBUTES = ('id', 'name', 'domain_id', 'description')
_LENGTHS = {'id': 64, 'name': 64, 'domain_id': 64}

GROUP = Row(*ATTRIBUTES, 'incarnation', extra=json_map)
BY_DOMAIN = Index('group_by_domain', 'domain_id', incarnate=True)


def _key(db: Store, group: Mapping[str, Any]) -> dict[str, str]:
    return key(db, group['domain_id'], group['name'])


GROUPS = Named(
    Entity(
        'group',
        GROUP,
        Indexes(BY_DOMAIN),
        maps=['extra'],
        guarded=['name', 'domain_id'],
        always=['name', 'domain_id'],
    ),
    Claims('group_claim', 'folded_name', 'domain_id', part='folded_name'),
    _key,
)
GROUP_KIND = Kind.of(GROUPS, 'name')


def key(db: Store, domain_id: str, name: str) -> dict[str, str]:
    """Return the key of a group's claim."""
    comparison = db.conf.cassandra.name_comparison
    return {
        'domain_id': domain_id,
        'folded_name': listing.fold(name, comparison),
    }


def stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a group names."""
    found = {name: given[name] for name in ATTRIBUTES if name in given}
    lengths.check(found, _LENGTHS)
    return found | {
        'extra': {
            name: given[name]
            for name in given
            # An attribute of that name is dropped, as with SQL.
            if name not in (*ATTRIBUTES, 'extra')
        }
    }


def presented(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group as the SQL driver shows it."""
    return {
        **(group['extra'] or {}),
        **{name: group[name] for name in ATTRIBUTES},
    }
