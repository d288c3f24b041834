# SPDX-License-Identifier: Apache-2.0
"""Many creations in one partition at one moment: all are made."""

from __future__ import annotations

import concurrent.futures
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg

from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.catalog import endpoints
from keystone_cassandra_token.drivers.catalog.endpoints import (
    ENDPOINTS,
    SERVICES,
)
from keystone_cassandra_token.drivers.catalog.regions import REGIONS
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.drivers.policy import POLICIES
from tests.fault import faults

#: Stores, each with connections of its own, and what each of them makes.
STORES = 12
EACH = 4


@pytest.fixture(scope='module')
def made() -> Iterator[list[Store]]:
    """Stores that are closed at the end."""
    stores: list[Store] = []
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def stores(conf: cfg.ConfigOpts, made: list[Store]) -> list[Store]:
    while len(made) < STORES:
        made.append(Store(conf))
        made[-1].sessions.get()
    return made


def new(entity: Any, **values: Any) -> Any:
    return entity.new({'id': uuid.uuid4().hex, **values})


def one_service(store: Store) -> Callable[[Store], bool]:
    service = new(SERVICES, type='t', enabled=True)
    assert SERVICES.create(store, service)
    return lambda db: endpoints.create(
        db,
        new(
            ENDPOINTS,
            service_id=service['id'],
            interface='public',
            url='http://localhost',
            enabled=True,
        ),
    )


def one_group(store: Store) -> Callable[[Store], bool]:
    group_id = uuid.uuid4().hex
    return lambda db: MEMBERSHIPS.add(
        db, user_id=uuid.uuid4().hex, group_id=group_id
    )


def one_user(store: Store) -> Callable[[Store], bool]:
    user_id = uuid.uuid4().hex
    return lambda db: MEMBERSHIPS.add(
        db, user_id=user_id, group_id=uuid.uuid4().hex
    )


def regions(store: Store) -> Callable[[Store], bool]:
    return lambda db: REGIONS.create(db, new(REGIONS, description=''))


def policies(store: Store) -> Callable[[Store], bool]:
    return lambda db: POLICIES.create(db, new(POLICIES, type='t', blob='{}'))


@pytest.mark.parametrize(
    'kind', [one_service, one_group, one_user, regions, policies]
)
def test_all_are_made(
    stores: list[Store], kind: Callable[[Store], Callable[[Store], bool]]
) -> None:
    create = kind(stores[0])
    start = threading.Barrier(STORES)

    def run(store: Store) -> list[bool]:
        start.wait(60)
        return [create(store) for _ in range(EACH)]

    with concurrent.futures.ThreadPoolExecutor(STORES) as threads:
        done = list(threads.map(run, stores))
    assert done == [[True] * EACH] * STORES


def test_a_mark_of_another_will_do(stores: list[Store]) -> None:
    """All mark one service at once: nobody tries twice, and it is marked."""
    service = new(SERVICES, type='t', enabled=True)
    assert SERVICES.create(stores[0], service)
    start = threading.Barrier(STORES)

    def run(store: Store) -> int:
        start.wait(60)
        with faults.counted(store) as sent:
            assert SERVICES.fence.touch(store, service['id'])
        return len(sent)

    with concurrent.futures.ThreadPoolExecutor(STORES) as threads:
        assert max(threads.map(run, stores)) <= 3
    found = SERVICES.find(stores[0], service['id'], SERVICES.settle)
    assert found is not None
    assert found['incarnation'] != service['incarnation']
    assert not SERVICES.fence.touch(stores[0], uuid.uuid4().hex)
