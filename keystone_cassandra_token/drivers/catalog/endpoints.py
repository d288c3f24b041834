# SPDX-License-Identifier: Apache-2.0
"""Services and their endpoints: rows, and what endpoints refer to.

SQL has foreign keys from an endpoint to its service and its region.  Here the
order of writes does, as in ``tables.association``: an endpoint is written, and
then what it refers to is looked at again::

    service:  deleted -> its endpoints looked for, and deleted with it
    region:   read -> endpoints looked for -> deleted as it was read, or
              refused

So a region, whose deletion looks first, gets a new incarnation from who looks
again; then a deletion that looked too early fails, and is made again.  All of
these looks are agreed on by all datacenters.

An endpoint whose service or region turns out to be gone is taken back; one
that was moved there moves back, unless it was deleted with its new service:
then it was moved in time.  If what it came from is gone by then too, it is
without a region, or goes with its service.
"""

from __future__ import annotations

import contextlib
import enum
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
    'service',
    SERVICE,
    Indexes(),
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
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
    sought_elsewhere=True,
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
    'endpoint_group',
    GROUP,
    Indexes(),
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
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
        _check_again(db, new)
    return True


class _Undone(enum.Enum):
    """What is left of an endpoint that was moved to what is gone."""

    #: It is where it was, or without a region.
    MOVED_BACK = enum.auto()
    #: It was deleted where it came to be.
    DELETED_THERE = enum.auto()
    #: It was deleted where it came from, or by itself.
    DELETED = enum.auto()


def change(
    db: Store, endpoint_id: str, changes: Mapping[str, Any]
) -> Stored | None:
    """Change an endpoint; return what it has become, None if it is gone.

    :raises keystone.exception.ValidationError: if the service or region that
        it is to have is not there.
    """
    if ENDPOINTS.find(db, endpoint_id) is None:
        return None
    _check(db, changes)
    was: Stored = {}
    undone = _Undone.MOVED_BACK

    def wanted(now: Stored) -> Mapping[str, Any]:
        was.update(now)
        return changes

    def undo() -> None:
        nonlocal undone
        undone = _move_back(db, endpoint_id, was, changes)

    changed = ENDPOINTS.change(db, endpoint_id, wanted)
    if changed is None:
        return None
    try:
        with _undone_by(undo):
            _check_again(db, changes)
    except exception.ValidationError:
        if undone is _Undone.MOVED_BACK:
            raise
        if undone is _Undone.DELETED:
            return None
        # As if the service had been deleted a moment after the move: who
        # deleted it has seen the endpoint there.
    return changed


def _move_back(
    db: Store,
    endpoint_id: str,
    was: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> _Undone:
    """Let an endpoint refer to what it did."""
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
        if 'service_id' in changes:
            return _Undone.DELETED_THERE
        return _Undone.DELETED
    service_id, region_id = back.get('service_id'), back.get('region_id')
    if service_id is not None and not _is_there(db, 'service_id', service_id):
        # Who deleted it did not see this endpoint there.
        remove_of_service(db, service_id)
        return _Undone.DELETED
    if region_id is not None and not _is_there(db, 'region_id', region_id):
        ENDPOINTS.change(
            db,
            endpoint_id,
            lambda now: (
                {'region_id': None} if now['region_id'] == region_id else {}
            ),
        )
    return _Undone.MOVED_BACK


def remove_of_service(db: Store, service_id: str) -> None:
    """Delete the endpoints of a service that is gone, with what projects have.

    :raises Contended: if too many others change them at once.
    """
    attempts = Attempts('endpoints of service', service_id)
    while attempts.another():
        found = [
            endpoint
            # Also what another datacenter has written a moment ago.
            for endpoint in ENDPOINTS.all_settled(db)
            if endpoint['service_id'] == service_id
        ]
        left = len(found)
        for endpoint in batches.discard_all(db, ENDPOINTS, found):
            ENDPOINTS_OF.remove_having(db, endpoint['id'])
            left -= 1
        if not left:
            return  # who comes with another one finds the service gone
        # These have got another service meanwhile, or are looked at again.


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


def _check_again(db: Store, endpoint: Mapping[str, Any]) -> None:
    """Check that what an endpoint refers to is there, once it is written."""
    for name in _REFERENCES:
        value = endpoint.get(name)
        if value is not None and not _is_there(db, name, value):
            raise _missing(name)


def _is_there(db: Store, name: str, value: str) -> bool:
    """Return whether what an endpoint refers to by now is there.

    Who deletes it later sees the endpoint.
    """
    entity, _ = _REFERENCES[name]
    if entity is SERVICES:
        return entity.fence.is_there(db, value)
    # Who deletes a region has looked for endpoints before.
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
