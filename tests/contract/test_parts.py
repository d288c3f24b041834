# SPDX-License-Identifier: Apache-2.0
"""What has many parts waits no longer in a row than what has few."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from keystone.common.driver_hints import Hints
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.db import errors, parts
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import (
    application_credential,
    credential,
)
from keystone_cassandra_token.drivers.assignment import driver as assignment
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.catalog import driver as catalog
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.limit import driver as limit
from keystone_cassandra_token.drivers.resource import domain_config
from keystone_cassandra_token.drivers.resource import driver as resource
from tests.contract import damage
from tests.fault import faults

FEW, MANY = 10, 40

_each = parts.each

MAKER = damage.Maker()


def fresh() -> str:
    return uuid.uuid4().hex


class Waits:
    """How long a request waits in a row.

    Its own thread waits for each answer that it asked for with nothing else
    under way, and for the longest of the parts that helpers do at once.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._pending = 0
        self._rounds = 0
        self._stages: list[list[int]] = []
        self._part = threading.local()

    @property
    def count(self) -> int:
        return self._rounds + sum(map(max, self._stages))

    def each(self, db: Store, work: Any, some: Any) -> Any:
        """Do as ``parts.each``, and take note of it."""
        if threading.get_ident() != self._main:
            return _each(db, work, some)
        stage = [0]
        self._stages.append(stage)

        def noted(store: Store, part: Any) -> Any:
            self._part.sent = 0
            try:
                return work(store, part)
            finally:
                if threading.get_ident() != self._main:
                    stage.append(self._part.sent)

        return _each(db, noted, some)

    def action(self, statements: Any, send: Callable[[], Any]) -> Any:
        if threading.get_ident() != self._main:
            self._part.sent += 1
            return send()
        if not self._pending:
            self._rounds += 1
        self._pending += 1
        return _Noted(self, send())

    def answered(self) -> None:
        self._pending -= 1


class _Noted:
    def __init__(self, waits: Waits, future: Any) -> None:
        self._waits, self._future = waits, future

    def result(self) -> Any:
        try:
            return self._future.result()
        finally:
            self._waits.answered()


@contextlib.contextmanager
def waiting(store: Store) -> Iterator[Waits]:
    waits = Waits()
    with (
        faults.intercepted(store, waits.action),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(parts, 'each', waits.each)
        yield waits


@pytest.fixture
def wide(store: Store) -> Iterator[None]:
    """Let all parts of a test be done at once."""
    store.conf.set_override('concurrency', 2 * MANY, group='cassandra')
    yield
    store.conf.clear_override('concurrency', group='cassandra')


def application_credential_with_rules(count: int) -> Callable[[], Any]:
    driver = application_credential.ApplicationCredential()
    user_id = fresh()
    new = {
        **damage.fresh('id', 'name', 'project_id'),
        'user_id': user_id,
        'secret': 's',
        'roles': [],
    }
    rules = [
        {'id': fresh(), 'service': 's', 'path': f'/{n}', 'method': 'GET'}
        for n in range(count)
    ]
    roles = [{'id': fresh()} for _ in range(count)]
    return lambda: driver.create_application_credential(new, roles, rules)


def access_rules_of_a_user(count: int) -> Callable[[], Any]:
    driver = application_credential.ApplicationCredential()
    user_id = fresh()
    new = {**damage.fresh('id', 'name', 'project_id'), 'user_id': user_id}
    rules = [
        {'id': fresh(), 'service': 's', 'path': f'/{n}', 'method': 'GET'}
        for n in range(count)
    ]
    made = driver.create_application_credential(
        new | {'secret': 's'}, [], rules
    )
    driver.delete_application_credential(made['id'])
    return lambda: driver.delete_access_rules_for_user(user_id)


def application_credentials_of_a_user(count: int) -> Callable[[], Any]:
    user_id = fresh()
    for _ in range(count):
        MAKER.application_credential(user_id=user_id)
    driver = application_credential.ApplicationCredential()
    return lambda: driver.delete_application_credentials_for_user(user_id)


def credentials_of_a_user(count: int) -> Callable[[], Any]:
    user_id = fresh()
    for _ in range(count):
        MAKER.credential(user_id=user_id)
    driver = credential.Credential()
    return lambda: driver.delete_credentials_for_user(user_id)


def memberships_of_a_user(count: int) -> Callable[[], Any]:
    values = damage.fresh('id', 'name', 'domain_id')
    MAKER.user(**values)
    for _ in range(count):
        identity.MEMBERSHIPS.add(
            identity.Identity().db, user_id=values['id'], group_id=fresh()
        )
    return lambda: identity.Identity().delete_user(values['id'])


def memberships_of_a_group(count: int) -> Callable[[], Any]:
    values = damage.fresh('id', 'name', 'domain_id')
    MAKER.group(**values)
    for _ in range(count):
        identity.MEMBERSHIPS.add(
            identity.Identity().db, user_id=fresh(), group_id=values['id']
        )
    return lambda: identity.Identity().delete_group(values['id'])


def grants_of_a_project(count: int) -> Callable[[], Any]:
    driver = assignment.Assignment()
    project_id, role_id = fresh(), fresh()
    for _ in range(count):
        driver.create_grant(role_id, user_id=fresh(), project_id=project_id)
    return lambda: driver.delete_project_assignments(project_id)


def grants_of_a_user(count: int) -> Callable[[], Any]:
    driver = assignment.Assignment()
    user_id, role_id = fresh(), fresh()
    for _ in range(count):
        driver.create_grant(role_id, user_id=user_id, project_id=fresh())
    return lambda: driver.delete_user_assignments(user_id)


def endpoints_of_a_project(count: int) -> Callable[[], Any]:
    driver = catalog.Catalog()
    project_id = fresh()
    for _ in range(count):
        driver.add_endpoint_to_project(fresh(), project_id)
    return lambda: driver.delete_association_by_project(project_id)


def projects_of_an_endpoint(count: int) -> Callable[[], Any]:
    driver = catalog.Catalog()
    endpoint_id = fresh()
    for _ in range(count):
        driver.add_endpoint_to_project(endpoint_id, fresh())
    return lambda: driver.delete_association_by_endpoint(endpoint_id)


def _registered(count: int) -> tuple[str, list[str]]:
    service_id = fresh()
    names = [f'resource-{n}' for n in range(count)]
    limit.UnifiedLimit().create_registered_limits(
        {
            'id': fresh(),
            'service_id': service_id,
            'region_id': None,
            'resource_name': name,
            'default_limit': 1,
        }
        for name in names
    )
    return service_id, names


def registered_limits(count: int) -> Callable[[], Any]:
    return lambda: _registered(count)


def limits(count: int) -> Callable[[], Any]:
    service_id, names = _registered(count)
    project_id = fresh()
    new = [
        {
            'id': fresh(),
            'service_id': service_id,
            'region_id': None,
            'resource_name': name,
            'resource_limit': 1,
            'project_id': project_id,
        }
        for name in names
    ]
    return lambda: limit.UnifiedLimit().create_limits(new)


def limits_of_a_project(count: int) -> Callable[[], Any]:
    service_id, names = _registered(count)
    project_id = fresh()
    limit.UnifiedLimit().create_limits(
        {
            'id': fresh(),
            'service_id': service_id,
            'region_id': None,
            'resource_name': name,
            'resource_limit': 1,
            'project_id': project_id,
        }
        for name in names
    )
    driver = limit.UnifiedLimit()
    return lambda: driver.delete_limits_for_project(project_id)


def role_inferences(count: int) -> Callable[[], Any]:
    driver = role.Role()
    prior = fresh()
    driver.create_role(prior, {'id': prior, 'name': prior, 'domain_id': None})
    for _ in range(count):
        implied = fresh()
        driver.create_role(
            implied, {'id': implied, 'name': implied, 'domain_id': None}
        )
        driver.create_implied_role(prior, implied)
    return lambda: driver.list_implied_roles(prior)


def domain_options(count: int) -> Callable[[], Any]:
    driver = domain_config.DomainConfig()
    domain_id = fresh()
    options = [
        {'group': 'ldap', 'option': f'o{n}', 'value': n, 'sensitive': False}
        for n in range(count)
    ]
    return lambda: driver.create_config_options(domain_id, options)


def tags(count: int) -> Callable[[], Any]:
    new = {
        **damage.fresh('id', 'name'),
        'domain_id': NULL_DOMAIN_ID,
        'parent_id': None,
        'is_domain': True,
        'tags': [f'tag-{n}' for n in range(count)],
    }
    return lambda: resource.Resource().create_project(new['id'], new)


def users_of_a_domain(count: int) -> Callable[[], Any]:
    domain_id = fresh()
    for _ in range(count):
        MAKER.user(**damage.fresh('id', 'name'), domain_id=domain_id)
    hints = Hints()
    hints.add_filter('domain_id', domain_id)
    return lambda: identity.Identity().list_users(hints)


@pytest.mark.usefixtures('wide')
@pytest.mark.parametrize(
    ('make', 'bound'),
    [
        (application_credential_with_rules, 28),
        (access_rules_of_a_user, 12),
        (application_credentials_of_a_user, 12),
        (credentials_of_a_user, 8),
        (memberships_of_a_user, 16),
        (memberships_of_a_group, 28),
        (grants_of_a_project, 8),
        (grants_of_a_user, 28),
        (endpoints_of_a_project, 4),
        (projects_of_an_endpoint, 6),
        (registered_limits, 8),
        (limits, 28),
        (limits_of_a_project, 12),
        (role_inferences, 4),
        (domain_options, 8),
        (tags, 10),
        (users_of_a_domain, 4),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_waits(
    store: Store, make: Callable[[int], Callable[[], Any]], bound: int
) -> None:
    for count in FEW, MANY:
        act = make(count)
        with waiting(store) as waits:
            act()
        print(f'{make.__name__}: {waits.count} waits with {count}')
        assert 0 < waits.count <= bound


@pytest.mark.usefixtures('conf')
class TestEach:
    def test_results_are_in_order(self, store: Store) -> None:
        numbers = range(50)
        assert parts.each(store, lambda db, n: n + 1, numbers) == [
            n + 1 for n in numbers
        ]

    @pytest.mark.parametrize('count', [2, 50])
    def test_a_failure_is_told(self, store: Store, count: int) -> None:
        def work(db: Store, number: int) -> None:
            if number == 1:
                raise errors.StoreUnavailable('away')

        with pytest.raises(errors.StoreUnavailable, match='away'):
            parts.each(store, work, range(count))

    def test_helpers_are_no_other_requests(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        new = application_credential_with_rules(MANY)
        new()
        assert 'several threads' not in caplog.text
