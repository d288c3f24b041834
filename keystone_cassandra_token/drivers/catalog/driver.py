# SPDX-License-Identifier: Apache-2.0
"""``keystone.catalog`` and ``keystone.endpoint_filter`` on Cassandra.

Regions, services, endpoints and endpoint groups are hundreds each: one
partition each, so that a whole catalog is a few reads, all sent at once.
``project_endpoint`` and ``project_endpoint_group`` say what a project has
been given.  What refers to each other is kept right by
``drivers.catalog.regions`` (a region and its parent) and
``drivers.catalog.endpoints`` (an endpoint, its service and its
region).

A service goes before its endpoints, an endpoint before what projects have of
it.  A crash in between leaves endpoints that are listed and can be deleted,
and no catalog has; deleting the same service again deletes them too.  A group
goes before what projects have of it, too, and nobody has been given what is
gone: Keystone shows none of a project's groups if it does not find one.
"""

from __future__ import annotations

import contextlib
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any

from keystone import exception
from keystone.catalog.backends import base
from keystone.common import utils
from keystone.common.driver_hints import Hints
from keystone.i18n import _
from oslo_config import cfg

from keystone_cassandra_token.compat import lengths, listing
from keystone_cassandra_token.compat.conflicts import duplicate
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.catalog import endpoints, regions
from keystone_cassandra_token.drivers.catalog.endpoints import (
    ENDPOINTS,
    GROUPS,
    SERVICES,
)
from keystone_cassandra_token.drivers.catalog.project_endpoints import (
    ENDPOINTS_OF,
    GROUPS_OF,
)
from keystone_cassandra_token.drivers.catalog.regions import REGIONS

Entity = dict[str, Any]

#: An endpoint's attributes that a catalog does not show.
_HIDDEN = ('service_id', 'legacy_endpoint_id', 'enabled')


class Catalog(Driver, base.CatalogDriverBase):
    """Service catalogs in Cassandra."""

    def create_region(self, region_ref: Mapping[str, Any]) -> Entity:
        region = REGIONS.new(regions.to_row(region_ref))
        if not regions.create(self.db, region):
            raise duplicate('region', 'ID', region['id'])
        return regions.to_ref(region)

    def list_regions(self, hints: Hints | None) -> list[Entity]:
        found = map(regions.to_ref, REGIONS.all(self.db))
        return self._listed(found, hints, regions.REGION.attributes)

    def get_region(self, region_id: str) -> Entity:
        region = REGIONS.find_anywhere(self.db, region_id)
        if region is None:
            raise exception.RegionNotFound(region_id=region_id)
        return regions.to_ref(region)

    def update_region(
        self, region_id: str, region_ref: Mapping[str, Any]
    ) -> Entity:
        changes = regions.to_row(region_ref)
        changes.pop('id', None)
        changed = regions.change(
            self.db,
            region_id,
            changes,
            self._ensure_no_circle_in_hierarchical_regions,
        )
        if changed is None:
            raise exception.RegionNotFound(region_id=region_id)
        return regions.to_ref(changed)

    def delete_region(self, region_id: str) -> None:
        def used() -> list[str]:
            # Also what another datacenter has written a moment ago.
            found = ENDPOINTS.all_settled(self.db)
            return [each['region_id'] for each in found]

        if not regions.remove(self.db, region_id, used):
            raise exception.RegionNotFound(region_id=region_id)

    def create_service(
        self, service_id: str, service_ref: Mapping[str, Any]
    ) -> Entity:
        service = endpoints.new_service(service_ref)
        if not SERVICES.create(self.db, service):
            raise duplicate('service', 'ID', service['id'])
        return endpoints.service_to_ref(service)

    def list_services(self, hints: Hints | None) -> list[Entity]:
        found = map(endpoints.service_to_ref, SERVICES.all(self.db))
        return self._listed(found, hints, endpoints.SERVICE.attributes)

    def get_service(self, service_id: str) -> Entity:
        service = SERVICES.find_anywhere(self.db, service_id)
        if service is None:
            raise exception.ServiceNotFound(service_id=service_id)
        return endpoints.service_to_ref(service)

    def update_service(
        self, service_id: str, service_ref: Mapping[str, Any]
    ) -> Entity:
        changes = endpoints.changes_of_service(service_ref)
        changed = SERVICES.change(self.db, service_id, changes)
        if changed is None:
            raise exception.ServiceNotFound(service_id=service_id)
        return endpoints.service_to_ref(changed)

    def delete_service(self, service_id: str) -> None:
        gone = SERVICES.remove(self.db, service_id)
        # Also what a deletion that was cut short has left.
        endpoints.remove_of_service(self.db, service_id)
        if not gone:
            raise exception.ServiceNotFound(service_id=service_id)

    def create_endpoint(
        self, endpoint_id: str, endpoint_ref: Mapping[str, Any]
    ) -> Entity:
        given = endpoints.endpoint_to_row(endpoint_ref)
        new = ENDPOINTS.new({'enabled': True} | given)
        if not endpoints.create(self.db, new):
            raise duplicate('endpoint', 'ID', new['id'])
        return endpoints.endpoint_to_ref(new)

    def get_endpoint(self, endpoint_id: str) -> Entity:
        endpoint = ENDPOINTS.find_anywhere(self.db, endpoint_id)
        if endpoint is None:
            raise exception.EndpointNotFound(endpoint_id=endpoint_id)
        return endpoints.endpoint_to_ref(endpoint)

    def list_endpoints(self, hints: Hints | None) -> list[Entity]:
        found = map(endpoints.endpoint_to_ref, ENDPOINTS.all(self.db))
        return self._listed(found, hints, endpoints.ENDPOINT.attributes)

    def update_endpoint(
        self, endpoint_id: str, endpoint_ref: Mapping[str, Any]
    ) -> Entity:
        changes = endpoints.endpoint_to_row(endpoint_ref)
        changes.pop('id', None)
        changed = endpoints.change(self.db, endpoint_id, changes)
        if changed is None:
            raise exception.EndpointNotFound(endpoint_id=endpoint_id)
        return endpoints.endpoint_to_ref(changed)

    def delete_endpoint(self, endpoint_id: str) -> None:
        gone = ENDPOINTS.remove(self.db, endpoint_id)
        ENDPOINTS_OF.remove_having(self.db, endpoint_id)
        if not gone:
            raise exception.EndpointNotFound(endpoint_id=endpoint_id)

    def get_v3_catalog(
        self, user_id: str, project_id: str | None
    ) -> list[Entity]:
        # All are sent before one is waited for: one round trip.
        services = SERVICES.all_async(self.db)
        endpoints_there = ENDPOINTS.all_async(self.db)
        if project_id:
            given = ENDPOINTS_OF.of_async(self.db, project_id)
            given_groups = GROUPS_OF.of_async(self.db, project_id)
            groups = GROUPS.all_async(self.db)
            self.resource_api.get_project(project_id)  # 404, as with SQL
        by_id = {service['id']: service for service in services.result()}
        # An endpoint whose service is gone is none.
        shown = [
            e for e in endpoints_there.result() if e['service_id'] in by_id
        ]
        chosen: set[str] = set()
        if project_id:
            chosen = _chosen(
                shown,
                {pair['endpoint_id'] for pair in given.result()},
                {pair['endpoint_group_id'] for pair in given_groups.result()},
                groups.result(),
            )
        if chosen:
            shown = [each for each in shown if each['id'] in chosen]
        elif not self.conf.endpoint_filter.return_all_endpoints_if_no_filter:
            return []
        format_url = _url_format(self.conf, user_id, project_id)
        catalog = [
            {
                'id': service['id'],
                'type': service['type'],
                'name': (service['extra'] or {}).get('name', ''),
                'endpoints': list(
                    _in_catalog(service['id'], shown, format_url)
                ),
            }
            for service in by_id.values()
            if service['enabled']
        ]
        # As with SQL a service without endpoints is left out only here.
        return [each for each in catalog if each['endpoints'] or not chosen]

    def add_endpoint_to_project(
        self, endpoint_id: str, project_id: str
    ) -> None:
        pair = {'endpoint_id': endpoint_id, 'project_id': project_id}
        lengths.check(pair, ENDPOINTS_OF.row, 'project_endpoint')
        if not ENDPOINTS_OF.add(self.db, **pair):
            raise duplicate('project_endpoint')

    def remove_endpoint_from_project(
        self, endpoint_id: str, project_id: str
    ) -> None:
        pair = {'endpoint_id': endpoint_id, 'project_id': project_id}
        if not ENDPOINTS_OF.remove(self.db, **pair):
            raise _not_in_project(endpoint_id, project_id)

    def check_endpoint_in_project(
        self, endpoint_id: str, project_id: str
    ) -> None:
        pair = {'endpoint_id': endpoint_id, 'project_id': project_id}
        if ENDPOINTS_OF.find(self.db, **pair) is None:
            raise _not_in_project(endpoint_id, project_id)

    def list_endpoints_for_project(
        self, project_id: str
    ) -> list[dict[str, str]]:
        found = ENDPOINTS_OF.of(self.db, project_id)
        return list(map(ENDPOINTS_OF.key, found))

    def list_projects_for_endpoint(
        self, endpoint_id: str
    ) -> list[dict[str, str]]:
        found = ENDPOINTS_OF.having(self.db, endpoint_id)
        return list(map(ENDPOINTS_OF.key, found))

    def delete_association_by_endpoint(self, endpoint_id: str) -> None:
        ENDPOINTS_OF.remove_having(self.db, endpoint_id)

    def delete_association_by_project(self, project_id: str) -> None:
        ENDPOINTS_OF.remove_of(self.db, project_id)

    def create_endpoint_group(
        self, endpoint_group_id: str, endpoint_group: Mapping[str, Any]
    ) -> Entity:
        given = {'name': None, **endpoint_group}
        group = GROUPS.new(endpoints.group_to_row(given))
        if not GROUPS.create(self.db, group):
            raise duplicate('endpoint_group', 'ID', group['id'])
        return endpoints.group_to_ref(group)

    def get_endpoint_group(self, endpoint_group_id: str) -> Entity:
        group = GROUPS.find_anywhere(self.db, endpoint_group_id)
        if group is None:
            raise _no_group(endpoint_group_id)
        return endpoints.group_to_ref(group)

    def update_endpoint_group(
        self, endpoint_group_id: str, endpoint_group: Mapping[str, Any]
    ) -> Entity:
        changes = endpoints.group_to_row(endpoint_group)
        changes.pop('id', None)
        changed = GROUPS.change(self.db, endpoint_group_id, changes)
        if changed is None:
            raise _no_group(endpoint_group_id)
        return endpoints.group_to_ref(changed)

    def delete_endpoint_group(self, endpoint_group_id: str) -> None:
        gone = GROUPS.remove(self.db, endpoint_group_id)
        # Also what a deletion that was cut short has left.
        GROUPS_OF.remove_having(self.db, endpoint_group_id)
        if not gone:
            raise _no_group(endpoint_group_id)

    def add_endpoint_group_to_project(
        self, endpoint_group_id: str, project_id: str
    ) -> None:
        pair = {
            'endpoint_group_id': endpoint_group_id,
            'project_id': project_id,
        }
        lengths.check(pair, GROUPS_OF.row, 'project_endpoint_group')
        if not GROUPS_OF.add_checked(
            self.db, lambda: self._group(endpoint_group_id), **pair
        ):
            raise duplicate('project_endpoint_group')

    def get_endpoint_group_in_project(
        self, endpoint_group_id: str, project_id: str
    ) -> dict[str, str]:
        pair = {
            'endpoint_group_id': endpoint_group_id,
            'project_id': project_id,
        }
        if (
            GROUPS.find(self.db, endpoint_group_id) is None
            or GROUPS_OF.find(self.db, **pair) is None
        ):
            raise _group_not_in_project()
        return pair

    def list_endpoint_groups(self, hints: Hints | None) -> list[Entity]:
        found = map(endpoints.group_to_ref, GROUPS.all(self.db))
        comparison = self.conf.cassandra.name_comparison
        names = ('id', 'name', 'description')
        return self._listed(found, hints, names, comparison)

    def list_endpoint_groups_for_project(
        self, project_id: str
    ) -> list[dict[str, str]]:
        found = GROUPS_OF.of_async(self.db, project_id)
        groups = GROUPS.all_async(self.db)
        there = {group['id'] for group in groups.result()}
        return [
            GROUPS_OF.key(pair)
            for pair in found.result()
            if pair['endpoint_group_id'] in there
        ]

    def list_projects_associated_with_endpoint_group(
        self, endpoint_group_id: str
    ) -> list[dict[str, str]]:
        if GROUPS.find(self.db, endpoint_group_id) is None:
            return []
        found = GROUPS_OF.having(self.db, endpoint_group_id)
        return list(map(GROUPS_OF.key, found))

    def remove_endpoint_group_from_project(
        self, endpoint_group_id: str, project_id: str
    ) -> None:
        if not GROUPS_OF.remove(
            self.db,
            endpoint_group_id=endpoint_group_id,
            project_id=project_id,
        ):
            raise _group_not_in_project()

    def delete_endpoint_group_association_by_project(
        self, project_id: str
    ) -> None:
        GROUPS_OF.remove_of(self.db, project_id)

    def _group(self, endpoint_group_id: str) -> Entity:
        group = GROUPS.find(self.db, endpoint_group_id)
        if group is None:
            raise _no_group(endpoint_group_id)
        return group

    @staticmethod
    def _listed(
        found: Iterable[Entity],
        hints: Hints | None,
        attributes: Collection[str],
        comparison: str = 'sensitive',
    ) -> list[Entity]:
        return listing.limit(
            listing.filter_by_hints(found, hints, attributes, comparison),
            hints,
        )


def _chosen(
    there: Iterable[Entity],
    given: Collection[str],
    given_groups: Collection[str],
    groups: Iterable[Entity],
) -> set[str]:
    """Return which endpoints a project was given, also by groups."""
    of_project = [group for group in groups if group['id'] in given_groups]
    return {
        endpoint['id']
        for endpoint in there
        if endpoint['id'] in given
        or any(endpoints.matches(endpoint, group) for group in of_project)
    }


def _in_catalog(
    service_id: str,
    there: Iterable[Entity],
    format_url: Callable[[str], str | None],
) -> Iterator[Entity]:
    """Yield a service's endpoints as a catalog shows them."""
    for endpoint in there:
        if endpoint['service_id'] != service_id or not endpoint['enabled']:
            continue
        url = format_url(endpoint['url'])
        if url:
            entry = endpoints.endpoint_to_ref(endpoint)
            for name in _HIDDEN:
                del entry[name]
            yield entry | {'url': url, 'region': endpoint['region_id']}


def _url_format(
    conf: cfg.ConfigOpts, user_id: str, project_id: str | None
) -> Callable[[str], str | None]:
    """Return what makes a URL of a template; None if it has none here."""
    values = {
        name: conf[name]
        for name in utils.WHITELISTED_PROPERTIES
        if name in conf
    }
    values['user_id'] = user_id
    absent = []
    if project_id:
        values |= {'tenant_id': project_id, 'project_id': project_id}
    else:
        absent = ['tenant_id', 'project_id']

    def format_url(url: str) -> str | None:
        with contextlib.suppress(exception.MalformedEndpoint):  # is logged
            made: str | None = utils.format_url(
                url, values, silent_keyerror_failures=absent
            )
            return made
        return None

    return format_url


def _not_in_project(endpoint_id: str, project_id: str) -> exception.NotFound:
    return exception.NotFound(
        _('Endpoint %(endpoint_id)s not found in project %(project_id)s')
        % {'endpoint_id': endpoint_id, 'project_id': project_id}
    )


def _no_group(endpoint_group_id: str) -> exception.EndpointGroupNotFound:
    return exception.EndpointGroupNotFound(endpoint_group_id=endpoint_group_id)


def _group_not_in_project() -> exception.NotFound:
    return exception.NotFound(
        _('Endpoint Group Project Association not found')
    )
