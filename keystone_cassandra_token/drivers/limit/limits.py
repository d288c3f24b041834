# SPDX-License-Identifier: Apache-2.0
"""Limits and registered limits: their rows, and how Keystone sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone import exception

from keystone_cassandra_token.compat import lengths, listing
from keystone_cassandra_token.db.rows import Row, micros, number
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import Named
from keystone_cassandra_token.tables.unique import Claims

Stored = dict[str, Any]

#: What a registered limit is called by; of the region None is a value too.
CALLED = ('service_id', 'region_id', 'resource_name')
#: What Keystone's SQL driver shows.
REGISTERED_ATTRIBUTES = ('id', *CALLED, 'default_limit', 'description')
_OWN = ('id', 'project_id', 'domain_id', 'resource_limit', 'description')
ATTRIBUTES = (*_OWN, *CALLED)
_LENGTHS = {
    'id': 64,
    'service_id': 255,
    'region_id': 64,
    'resource_name': 255,
    'project_id': 64,
    'domain_id': 64,
}

REGISTERED_LIMIT = Row(
    *REGISTERED_ATTRIBUTES,
    'incarnation',
    closed_at=micros,
    default_limit=number,
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
        REGISTERED_LIMIT,
        Indexes(),
        guarded=[*CALLED, 'closed_at'],
        together=True,
        always=['service_id', 'resource_name', 'default_limit'],
    ),
    Claims('registered_limit_claim', 'service_id', 'region_id', 'folded_name'),
    name_key,
)


REGISTERED_LIMIT_KIND = Kind.of(REGISTERED_LIMITS, *CALLED)

LIMIT = Row(
    *ATTRIBUTES, 'registered_limit_id', 'incarnation', resource_limit=number
)
# A project, or a domain, has one of each registered limit at most.
BY_PROJECT = Index(
    'limit_by_project', 'project_id', sharded=False, incarnate=True
)
BY_DOMAIN = Index(
    'limit_by_domain', 'domain_id', sharded=False, incarnate=True
)
BY_REGISTERED_LIMIT = Index(
    'limit_by_registered_limit', 'registered_limit_id', incarnate=True
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
        'limit', LIMIT, Indexes(BY_PROJECT, BY_DOMAIN, BY_REGISTERED_LIMIT)
    ),
    Claims('limit_claim', 'registered_limit_id', 'project_id', 'domain_id'),
    target_key,
)
LIMIT_KIND = Kind.of(LIMITS)


def new_registered(given: Mapping[str, Any]) -> Stored:
    """Return a registered limit that is yet to be created.

    :raises keystone.exception.StringLengthExceeded: as the SQL model.
    :raises keystone.exception.UnexpectedError: as SQL, for no number.
    """
    return REGISTERED_LIMITS.entity.new(
        changes_of_registered({'default_limit': None, **given})
    )


def changes_of_registered(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that a registered limit names.

    :raises: as :func:`new_registered`.
    """
    lengths.check(given, _LENGTHS)
    lengths.check_null(given, ['default_limit'], 'registered_limit')
    return {
        name: given[name] for name in REGISTERED_ATTRIBUTES if name in given
    }


def new(given: Mapping[str, Any], registered: Mapping[str, Any]) -> Stored:
    """Return a limit that is yet to be created, of a registered limit.

    :raises: as :func:`new_registered`.
    :raises keystone.exception.ValidationError: if it is nobody's.
    """
    lengths.check(given, _LENGTHS)
    own = {name: given.get(name) for name in _OWN}
    lengths.check_null(own, ['resource_limit'], 'limit')
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


def presented_registered(registered_limit: Mapping[str, Any]) -> Stored:
    """Return a registered limit as the SQL driver shows it."""
    return {name: registered_limit[name] for name in REGISTERED_ATTRIBUTES}


def presented(limit: Mapping[str, Any]) -> Stored:
    """Return a limit as the SQL driver shows it."""
    return {name: limit[name] for name in ATTRIBUTES}
