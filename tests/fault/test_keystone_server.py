# SPDX-License-Identifier: Apache-2.0
"""Real Keystone servers whose Cassandra is away, wrong or comes back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.people import People
from lab.server import Keystone, ServerError
from lab.waiting import until

from keystone_cassandra_token.schema import files
from tests.conftest import RESTARTED
from tests.fault.keystone_servers import (
    Servers,
    login_status,
    make_schema,
    outages,
)

_NAME = 'cassandra.test'

#: As a name server whose answers can be changed.
_RESOLVER = """\
import socket

real = socket.getaddrinfo

def getaddrinfo(host, *arguments, **more):
    if host == {name!r}:
        with open({hosts!r}) as hosts:
            host = hosts.read()
    return real(host, *arguments, **more)

socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    """A node that a test may stop; what it acknowledged is on disk."""
    with Cluster.start(
        own=True, commitlog_sync='batch', java_options=RESTARTED
    ) as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whose node runs again after the test."""
    yield cluster
    cluster.nodes[0].start()


def _client(keystone: Keystone) -> Client:
    return Client(keystone.url, keystone.workers)


def _statuses(
    client: Client, admin: str, token: str, times: int = 1
) -> set[int]:
    """Return the statuses of validating a token in every worker."""
    return {
        status
        for _ in range(times)
        for status in client.validate_everywhere(admin, token).values()
    }


def test_killed_cassandra_gives_503_and_loses_no_revocation(
    servers: Servers, node: Cluster
) -> None:
    keystone = servers.make(node)
    keystone.start()
    client = _client(keystone)
    admin = client.log_in('admin', servers.password, **ADMIN_SCOPE).auth_token
    people = People(client, admin)
    kept = people.log_in('alice')
    gone = [people.log_in('alice') for _ in range(5)]
    for token in gone:
        answer = client.request('DELETE', '/auth/tokens', admin, token)
        assert answer.status_code == 204

    node.nodes[0].kill()
    assert _statuses(client, admin, kept, times=5) == {503}
    assert _statuses(client, admin, gone[0]) == {503}, 'fails closed'
    assert login_status(client, servers.password) == 503
    answer = client.request('DELETE', '/auth/tokens', admin, kept)
    assert answer.status_code == 503
    assert keystone.status('/v3') == 200

    node.nodes[0].start()
    until(
        lambda: _statuses(client, admin, kept) == {200},
        'every worker validates again',
    )
    for token in gone:
        assert _statuses(client, admin, token) == {404}
    assert login_status(client, servers.password) == 201
    until(
        lambda: (
            _statuses(client, admin, kept) == {200}
            and 'Cassandra answers again' in keystone.log()
        ),
        'the end of the outage',
    )
    log = keystone.log()
    assert 'Traceback' not in log
    assert 'auth_context' not in log, 'no line for each request'
    assert len(outages(keystone)) == 1
    # A worker may fail on for a moment, and is not told of.
    assert log.count('Cassandra answers again') == 1
    # The driver may hear of it before the first request fails.
    during = log[log.index('outage=began') : log.index('outage=ended')]
    assert not re.search(r'(WARNING|ERROR) cassandra\.', during), (
        'the lines of the driver are counted'
    )


def test_frozen_cassandra_gives_503_and_recovers(
    servers: Servers, node: Cluster
) -> None:
    short = {'cassandra': {'request_timeout': 3, 'connect_timeout': 3}}
    keystone = servers.make(node, short)
    keystone.start()
    client = _client(keystone)
    admin = client.log_in('admin', servers.password, **ADMIN_SCOPE).auth_token
    assert _statuses(client, admin, admin) == {200}
    node.nodes[0].pause()
    try:
        assert _statuses(client, admin, admin) == {503}
    finally:
        node.nodes[0].resume()
    until(
        lambda: _statuses(client, admin, admin) == {200},
        'every worker validates again',
    )
    assert 'Traceback' not in keystone.log()


def _refuses(keystone: Keystone, servers: Servers, *named: str) -> Client:
    """Start a server that cannot work and check how it says so."""
    keystone.start()
    client = _client(keystone)
    for _ in range(5):
        assert login_status(client, servers.password) == 503
    lines = outages(keystone)
    assert len(lines) == 1, lines
    for text in named:
        assert text in lines[0]
    assert 'Traceback' not in keystone.log()
    return client


def _recovers(client: Client, servers: Servers) -> None:
    until(lambda: login_status(client, servers.password) == 201, 'it logs in')


def test_start_while_cassandra_is_away(
    servers: Servers, node: Cluster
) -> None:
    keystone = servers.make(node, workers=1)
    node.nodes[0].stop()
    client = _refuses(keystone, servers, 'cassandra_node_ips', 'running')
    node.nodes[0].start()
    _recovers(client, servers)


def test_start_without_keyspace(servers: Servers, cluster: Cluster) -> None:
    keystone = servers.make(
        cluster, keyspace='absent', schema=False, workers=1
    )
    client = _refuses(
        keystone,
        servers,
        '[cassandra] keyspace = absent',
        'keystone-cassandra keyspace create',
    )
    make_schema(keystone)
    _recovers(client, servers)


def test_start_without_schema(servers: Servers, cluster: Cluster) -> None:
    keystone = servers.make(cluster, keyspace='empty', schema=False, workers=1)
    keystone.run('keystone-cassandra', 'keyspace', 'create')
    client = _refuses(keystone, servers, 'keystone-cassandra schema apply')
    keystone.run('keystone-cassandra', 'schema', 'apply')
    _recovers(client, servers)


def test_start_with_an_old_schema(servers: Servers, cluster: Cluster) -> None:
    keystone = servers.make(cluster, keyspace='old', workers=1)
    with cluster.connect() as session:
        session.execute(
            'DELETE FROM old.schema_migration WHERE level = %s',
            (files.latest(),),
        )
    client = _refuses(
        keystone,
        servers,
        f'needs {files.latest()}',
        'keystone-cassandra schema apply',
    )
    keystone.run('keystone-cassandra', 'schema', 'apply')
    _recovers(client, servers)


def test_start_without_contact_points(
    servers: Servers, cluster: Cluster
) -> None:
    # And with an option that is none, which oslo.config ignores.
    keystone = servers.make(
        None, {'cassandra': {'tls_enable': True}}, schema=False, workers=1
    )
    _refuses(keystone, servers, '[database] cassandra_node_ips is empty')
    assert 'is no option and has no effect: is tls_enabled meant?' in (
        keystone.log()
    )


def test_start_with_tls_where_the_nodes_have_none(
    servers: Servers, cluster: Cluster
) -> None:
    keystone = servers.make(
        cluster, {'cassandra': {'tls_enabled': True}}, schema=False, workers=1
    )
    _refuses(keystone, servers, '[cassandra] tls_')
    with pytest.raises(ServerError, match='tls_'):
        keystone.run('keystone-cassandra', 'schema', 'status')


def test_fork_after_first_use(servers: Servers, cluster: Cluster) -> None:
    keystone = servers.make(
        cluster,
        workers=3,
        environment={'KEYSTONE_LAB_LOGIN': servers.password},
    )
    keystone.start()
    assert 'log-in before the fork: 201' in keystone.log()
    client = _client(keystone)
    for worker in client.workers:
        assert login_status(client, servers.password, worker) == 201
    admin = client.log_in('admin', servers.password, **ADMIN_SCOPE).auth_token
    assert _statuses(client, admin, admin, times=3) == {200}


def test_revocation_reaches_workers_with_caches_of_their_own(
    servers: Servers, cluster: Cluster
) -> None:
    cache = {'cache': {'enabled': True, 'backend': 'oslo_cache.dict'}}
    keystone = servers.make(cluster, cache)
    keystone.start()
    client = _client(keystone)
    admin = client.log_in('admin', servers.password, **ADMIN_SCOPE).auth_token
    token = client.log_in('admin', servers.password, **ADMIN_SCOPE).auth_token
    assert _statuses(client, admin, token, times=2) == {200}
    first, second = client.workers
    answer = client.request(
        'DELETE', '/auth/tokens', admin, token, worker=first
    )
    assert answer.status_code == 204
    assert client.validate(admin, token, second) == 404


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The address of a name, for all processes started from now on."""
    hosts = tmp_path / 'hosts'
    folder = tmp_path / 'site'
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(
        _RESOLVER.format(name=_NAME, hosts=str(hosts))
    )
    path = [str(folder), os.environ.get('PYTHONPATH', '')]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, path)))
    return hosts


def test_a_name_with_another_address(
    servers: Servers, node: Cluster, hosts: Path
) -> None:
    """The address under which the driver knew the node is nobody's."""
    (moved,) = node.nodes
    hosts.write_text(moved.address)
    servers.make(node)  # makes the schema, by address
    keystone = servers.make(node, {'database': {'cassandra_node_ips': _NAME}})
    keystone.start()
    client = Client(keystone.url, keystone.workers)
    assert login_status(client, servers.password) == 201
    moved.stop()
    assert login_status(client, servers.password) == 503
    node.move(moved, 9)
    moved.start()
    hosts.write_text(moved.address)
    until(
        lambda: (
            {
                login_status(client, servers.password, worker)
                for worker in client.workers
            }
            == {201}
        ),
        'each worker finds the node',
    )
    assert 'connecting afresh' in keystone.log()
    assert 'Traceback' not in keystone.log()
    client.close()
