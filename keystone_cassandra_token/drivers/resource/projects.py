# SPDX-License-Identifier: Apache-2.0
"""Projects and domains: their rows, and how Keystone sees them.

A domain is a project acting as one.  Its own ``domain_id`` is
``NULL_DOMAIN_ID``, as with SQL; that root of all domains is no row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone.resource.backends import resource_options as options
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.compat import (
    extras,
    lengths,
    listing,
    resource_options,
)
from keystone_cassandra_token.db.rows import (
    Row,
    boolean,
    json_map,
    micros,
    text,
    text_list,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec

Stored = dict[str, Any]

_OPTIONS = options.PROJECT_OPTIONS_REGISTRY

PROJECT = Row(
    id=text(64),
    name=text(64, required=True),
    domain_id=text(64, required=True),
    description=text,
    enabled=boolean,
    parent_id=text(64),
    is_domain=boolean(required=True),
    tags=text_list,
    options=json_map,
    extra=json_map,
)
TAG = Row(name=text(255))
BY_DOMAIN = Index('project_by_domain', 'domain_id', versioned=True)
# Of a domain BY_DOMAIN has the children; below it they are few.
BY_PARENT = Index(
    'project_by_parent',
    'parent_id',
    sharded=False,
    versioned=True,
    values_of=lambda project: (
        {project['parent_id']} - {None, project['domain_id']}
    ),
)
BY_TAG = Index(
    'project_by_tag',
    'tag',
    versioned=True,
    values_of=lambda project: project['tags'] or (),
)


def key(db: Store, domain_id: str, name: str) -> dict[str, str]:
    """Return the key of a project's claim."""
    comparison = db.conf.cassandra.name_comparison
    return {
        'domain_id': domain_id,
        'folded_name': listing.fold(name, comparison),
    }


def _keys(db: Store, project: Mapping[str, Any]) -> list[dict[str, str]]:
    return [key(db, project['domain_id'], project['name'])]


PROJECTS = Named(
    Entity(
        'project',
        PROJECT | STAMPS | Row(closed_at=micros),
        Indexes(BY_DOMAIN, BY_PARENT, BY_TAG),
        guarded=['domain_id', 'name', 'tags', 'closed_at'],
        lists_are_remembered=True,
        ids_are_given=True,
        sought_elsewhere=True,
    ),
    ClaimSpec(
        Claims(
            'project_claim', 'folded_name', 'domain_id', part='folded_name'
        ),
        _keys,
    ),
)
PROJECT_DERIVED = DerivedTables.of(PROJECTS, 'name', 'tags')


def to_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a project names.

    :raises: as :func:`extras.to_row`.
    :raises TypeError, ValueError: for a value that an option refuses.
    """
    if 'domain_id' in given:
        given = {**given, 'domain_id': given['domain_id'] or NULL_DOMAIN_ID}
    found = extras.to_row(given, PROJECT, 'project')
    if 'tags' in found:
        found['tags'] = [str(tag) for tag in found['tags']]
        for tag in found['tags']:
            lengths.check({'name': tag}, TAG, 'project_tag')
    return found | {'options': resource_options.to_row(_OPTIONS, given)}


def to_ref(project: Mapping[str, Any], with_extra: bool = False) -> Stored:
    """Return a project as the SQL driver returns it.

    :param with_extra: also the extra attributes by themselves, as an update
        does for older clients.
    """
    shown = extras.to_ref(project, PROJECT)
    if project['domain_id'] == NULL_DOMAIN_ID:
        shown['domain_id'] = None
    shown['tags'] = list(project['tags'] or ())
    shown['options'] = resource_options.to_ref(_OPTIONS, project['options'])
    if with_extra:
        shown['extra'] = dict(project['extra'] or {})
    return shown
