# SPDX-License-Identifier: Apache-2.0
"""Limits and registered limits: their rows, and how Keystone sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone import exception

from keystone_cassandra_token.compat import extras, lengths, listing
from keystone_cassandra_token.db.rows import Row, micros, number, text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec

Stored = dict[str, Any]

#: What a registered limit is called by; of the region None is a value too.
CALLED = ('service_id', 'region_id', 'resource_name')

# Service and resource SQL does not need, but Keystone: no limit is without.
REGISTERED_LIMIT = Row(
    id=text(64),
    service_id=text(255, required=True),
    region_id=text(64),
    resource_name=text(255, required=True),
    default_limit=number(required=True),
    description=text,
)


def name_key(db: Store, called: Mapping[str, Any]) -> dict[str, str]:
    """Return the key of a registered limit's claim."""
    return {
        'service_id': called['service_id'] or '',
        'region_id': called.get('region_id') or '',
        'folded_name': listing.fold(
            called['resource_name'] or '', db.conf.cassandra.name_comparison
        ),
    }


REGISTERED_LIMITS = Named(
    Entity(
        'registered_limit',
        REGISTERED_LIMIT | STAMPS | Row(closed_at=micros),
        Indexes(),
        guarded=[*CALLED, 'closed_at'],
        single_partition=True,
    ),
    ClaimSpec(
        Claims(
            'registered_limit_claim', 'service_id', 'region_id', 'folded_name'
        ),
        lambda db, registered: [name_key(db, registered)],
    ),
)


REGISTERED_LIMIT_DERIVED = DerivedTables.of(REGISTERED_LIMITS, *CALLED)

_OWN = Row(
    id=text(64),
    project_id=text(64),
    domain_id=text(64),
    resource_limit=number(required=True),
    description=text,
)
LIMIT = _OWN | REGISTERED_LIMIT.part(CALLED)
# A project, or a domain, has one of each registered limit at most.
BY_PROJECT = Index(
    'limit_by_project', 'project_id', sharded=False, versioned=True
)
BY_DOMAIN = Index(
    'limit_by_domain', 'domain_id', sharded=False, versioned=True
)
BY_REGISTERED_LIMIT = Index(
    'limit_by_registered_limit', 'registered_limit_id', versioned=True
)


def target_key(_db: Store, limit: Mapping[str, Any]) -> dict[str, str]:
    """Return the key of a limit's claim; as with SQL a project goes first."""
    project_id = limit['project_id'] or ''
    return {
        'registered_limit_id': limit['registered_limit_id'],
        'project_id': project_id,
        'domain_id': '' if project_id else limit['domain_id'] or '',
    }


LIMITS = Named(
    Entity(
        'limit',
        LIMIT | STAMPS | Row(registered_limit_id=text(64)),
        Indexes(BY_PROJECT, BY_DOMAIN, BY_REGISTERED_LIMIT),
    ),
    ClaimSpec(
        Claims(
            'limit_claim', 'registered_limit_id', 'project_id', 'domain_id'
        ),
        lambda db, limit: [target_key(db, limit)],
    ),
)
LIMIT_DERIVED = DerivedTables.of(LIMITS)


def new_registered(given: Mapping[str, Any]) -> Stored:
    """Return a registered limit that is yet to be created.

    :raises: as :func:`extras.to_row`.
    """
    return REGISTERED_LIMITS.entity.new(
        changes_of_registered(
            {**dict.fromkeys(REGISTERED_LIMIT.required), **given}
        )
    )


def changes_of_registered(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that a registered limit names.

    :raises: as :func:`new_registered`.
    """
    return extras.to_row(given, REGISTERED_LIMIT, 'registered_limit')


def new(given: Mapping[str, Any], registered: Mapping[str, Any]) -> Stored:
    """Return a limit that is yet to be created, of a registered limit.

    :raises: as :func:`new_registered`.
    :raises keystone.exception.ValidationError: if it is nobody's.
    """
    own = {name: given.get(name) for name in _OWN.attributes}
    lengths.check(own, LIMIT, 'limit')
    if not (own['project_id'] or own['domain_id']):
        # Nobody could find it, and its registered limit would be in use.
        raise exception.ValidationError(
            attribute='project_id or domain_id', target='limit'
        )
    return LIMITS.entity.new(
        own
        | {name: registered[name] for name in CALLED}
        | {'registered_limit_id': registered['id']}
    )


def registered_to_ref(registered_limit: Mapping[str, Any]) -> Stored:
    """Return a registered limit as the SQL driver returns it."""
    return extras.to_ref(registered_limit, REGISTERED_LIMIT)


def to_ref(limit: Mapping[str, Any]) -> Stored:
    """Return a limit as the SQL driver returns it."""
    return extras.to_ref(limit, LIMIT)
