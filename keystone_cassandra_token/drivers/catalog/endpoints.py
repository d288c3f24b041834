# SPDX-License-Identifier: Apache-2.0
"""Services and their endpoints: rows, and what endpoints refer to.

SQL has foreign keys from an endpoint to its service and its region.  Here an
endpoint is written first, and then what it refers to gets a new incarnation:
who deletes a region reads it before it looks for endpoints, and so deletes
none that came to have one meanwhile; who deletes a service looks for
endpoints afterwards.  An endpoint whose service or region turns out to be
gone is taken back; one that was moved there moves back.  If what it came from
is gone by then too, it is without a region, or goes with its service.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keystone import exception

from keystone_cassandra_token.compat import extras
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.rows import (
    Row,
    any_text,
    boolean,
    json_map,
    json_text,
    text,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.catalog.project_endpoints import (
    ENDPOINTS_OF,
)
from keystone_cassandra_token.drivers.catalog.regions import REGIONS
from keystone_cassandra_token.tables import batches
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Indexes

Stored = dict[str, Any]

SERVICE = Row(
    id=text(64),
    type=text(255),
    enabled=boolean(required=True),
    extra=json_map,
)
SERVICES = Entity(
    'service', SERVICE, Indexes(), everywhere=True, single_partition=True
)

ENDPOINT = Row(
    id=text(64),
    interface=text(8, required=True),
    region_id=text(255),
    service_id=text(64, required=True),
    url=text(required=True),
    legacy_endpoint_id=any_text(64),
    enabled=boolean(required=True),
    extra=json_map,
)
ENDPOINTS = Entity(
    'endpoint',
    ENDPOINT,
    Indexes(),
    guarded=['service_id', 'region_id'],
    everywhere=True,
    single_partition=True,
)

#: What an endpoint refers to, and what Keystone calls that.
_REFERENCES = {
    'service_id': (SERVICES, 'service table'),
    'region_id': (REGIONS, 'region table'),
}

GROUP = Row(
    id=text(64),
    name=text(255, required=True),
    description=text,
    filters=json_text,
)
GROUPS = Entity(
    'endpoint_group', GROUP, Indexes(), everywhere=True, single_partition=True
)


def new_service(given: Mapping[str, Any]) -> Stored:
    """Return a service that is yet to be created.

    :raises: as :func:`extras.to_row`.
    """
    given = _enabled_as_bool({'enabled': None, **given})
    return SERVICES.new(extras.to_row(given, SERVICE, 'service'))


def changes_of_service(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that a service names, but its id.

    :raises: as :func:`extras.to_row`.
    """
    changes = extras.to_row(given, SERVICE, 'service')
    changes.pop('id', None)
    return changes


def service_to_ref(service: Mapping[str, Any]) -> Stored:
    """Return a service as the SQL driver returns it."""
    return extras.to_ref(service, SERVICE)


def endpoint_to_row(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that an endpoint names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(_enabled_as_bool(given), ENDPOINT, 'endpoint')


def endpoint_to_ref(endpoint: Mapping[str, Any]) -> Stored:
    """Return an endpoint as the SQL driver returns it."""
    return extras.to_ref(endpoint, ENDPOINT)


def group_to_row(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that an endpoint group names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(given, GROUP, 'endpoint_group')


def group_to_ref(group: Mapping[str, Any]) -> Stored:
    """Return an endpoint group as the SQL driver returns it."""
    return extras.to_ref(group, GROUP)


def create(db: Store, new: Stored) -> bool:
    """Create an endpoint; return whether its id was free.

    :param new: from ``ENDPOINTS.new``.
    :raises keystone.exception.ValidationError: if its service or its region
        is not there.
    """
    if ENDPOINTS.find(db, new['id']):
        return False
    _check(db, new)
    if not ENDPOINTS.create(db, new):
        return False
    with _undone_by(lambda: ENDPOINTS.discard(db, new)):
        _touch_references(db, new)
    return True


def change(
    db: Store, endpoint_id: str, changes: Mapping[str, Any]
) -> Stored | None:
    """Change an endpoint; return what it has become, None if it is gone.

    Also if it went with the service that it was to have.

    :raises keystone.exception.ValidationError: if the service or region that
        it is to have is not there.
    """
    if ENDPOINTS.find(db, endpoint_id) is None:
        return None
    _check(db, changes)
    was: Stored = {}
    there = True

    def wanted(now: Stored) -> Mapping[str, Any]:
        was.update(now)
        return changes

    def undo() -> None:
        nonlocal there
        there = _move_back(db, endpoint_id, was, changes)

    changed = ENDPOINTS.change(db, endpoint_id, wanted)
    if changed is None:
        return None
    try:
        with _undone_by(undo):
            _touch_references(db, changes)
    except exception.ValidationError:
        if not there:
            return None
        raise
    return changed


def _move_back(
    db: Store,
    endpoint_id: str,
    was: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> bool:
    """Let an endpoint refer to what it did; return whether it is there."""
    back: Stored = {}

    def moved(now: Stored) -> Stored:
        nonlocal back
        back = {
            name: was[name]
            for name in _REFERENCES
            if name in changes and now[name] == changes[name]
        }
        return back

    if ENDPOINTS.change(db, endpoint_id, moved) is None:
        return False
    service_id, region_id = back.get('service_id'), back.get('region_id')
    if service_id is not None and not _touch(db, 'service_id', service_id):
        # Who deleted it did not see this endpoint there.
        remove_of_service(db, service_id)
        return False
    if region_id is not None and not _touch(db, 'region_id', region_id):
        ENDPOINTS.change(
            db,
            endpoint_id,
            lambda now: (
                {'region_id': None} if now['region_id'] == region_id else {}
            ),
        )
    return True


def remove_of_service(db: Store, service_id: str) -> None:
    """Delete a service's endpoints, and what projects have of them.

    :raises Contended: if too many others change them at once.
    """
    attempts = Attempts('endpoints of service', service_id)
    while attempts.another():
        found = [
            endpoint
            for endpoint in ENDPOINTS.all(db)
            if endpoint['service_id'] == service_id
        ]
        if not found:
            return
        # Others have got another service meanwhile, or are looked at again.
        for endpoint in batches.discard_all(db, ENDPOINTS, found):
            ENDPOINTS_OF.remove_having(db, endpoint['id'])


def matches(endpoint: Mapping[str, Any], group: Mapping[str, Any]) -> bool:
    """Return whether an endpoint is one of a group's."""
    shown = endpoint_to_ref(endpoint)
    return all(
        name in shown and shown[name] == value
        for name, value in (group['filters'] or {}).items()
    )


def _enabled_as_bool(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is enabled if it says None, as the SQL models."""
    if given.get('enabled', True) is None:
        return {**given, 'enabled': True}
    return given


def _check(db: Store, endpoint: Mapping[str, Any]) -> None:
    """Check that what an endpoint refers to is there, before it is written."""
    for name, (entity, _) in _REFERENCES.items():
        value = endpoint.get(name)
        if value is not None and entity.find(db, value) is None:
            raise _missing(name)


def _touch_references(db: Store, endpoint: Mapping[str, Any]) -> None:
    """Give what an endpoint refers to a new incarnation.

    So a deletion of it that has read it before fails.
    """
    for name in _REFERENCES:
        value = endpoint.get(name)
        if value is not None and not _touch(db, name, value):
            raise _missing(name)


def _touch(db: Store, name: str, value: str) -> bool:
    """Give a referred entity a new incarnation; return whether it exists."""
    entity, _ = _REFERENCES[name]
    return entity.fence.touch(db, value)


@contextlib.contextmanager
def _undone_by(undo: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # While Cassandra is away nothing can be taken back: the endpoint
        # stays, and is listed.
        with contextlib.suppress(errors.StoreUnavailable):
            undo()
        raise


def _missing(name: str) -> exception.ValidationError:
    """Return the exception that Keystone raises for a missing reference."""
    return exception.ValidationError(
        attribute=f'endpoint {name}', target=_REFERENCES[name][1]
    )
