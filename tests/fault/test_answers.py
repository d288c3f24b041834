# SPDX-License-Identifier: Apache-2.0
"""What callers are told while Cassandra is away or the options are wrong.

They may be anonymous: what names an option, a path, a datacenter, a table or
a statement is for the log alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command
import pytest
import requests
from cassandra.auth import PlainTextAuthProvider
from lab import ports
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.server import Keystone, Settings, merge
from lab.waiting import until

from keystone_cassandra_token.db import errors
from tests import awkward
from tests.conftest import FORGETFUL
from tests.fault.keystone_servers import (
    Servers,
    outages,
)

#: Who may do all, on a node with an authorizer.
_ROOT: Settings = {
    'cassandra': {'username': 'cassandra', 'password': 'cassandra'}
}
#: Who may read the keyspace alone.
_READER = 'reader'
_KEYSPACE = 'answers'
#: May be told.
_TEXTS = {
    errors.StoreUnavailable.public,
    errors.OutcomeUnknown.public,
}


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with Cluster.start(
        own=True,
        java_options=[FORGETFUL],
        yaml={
            'authenticator': 'PasswordAuthenticator',
            'authorizer': 'CassandraAuthorizer',
            'permissions_validity': '0ms',
        },
    ) as cluster:
        yield cluster


@pytest.fixture(scope='module')
def password(cluster: Cluster, all_servers: Servers) -> str:
    """The schema is there, and a role that may read it; its password."""
    all_servers.make(cluster, _ROOT, keyspace=_KEYSPACE, workers=1)
    password = awkward.secret()
    provider = PlainTextAuthProvider('cassandra', 'cassandra')
    with cluster.connect(auth_provider=provider) as session:
        session.execute(
            f'CREATE ROLE {_READER} WITH LOGIN = true AND PASSWORD ='
            f" '{awkward.in_cql(password)}'"
        )
        session.execute(f'GRANT SELECT ON KEYSPACE {_KEYSPACE} TO {_READER}')
    return password


def _log_in(client: Client, password: str) -> requests.Response:
    user = {
        'name': 'admin',
        'domain': {'id': 'default'},
        'password': password,
    }
    project = {
        'name': ADMIN_SCOPE['project_name'],
        'domain': {'id': ADMIN_SCOPE['project_domain_id']},
    }
    identity = {'methods': ['password'], 'password': {'user': user}}
    return client.request(
        'POST',
        '/auth/tokens',
        '',
        json={'auth': {'identity': identity, 'scope': {'project': project}}},
    )


def _answers(keystone: Keystone, password: str) -> list[str]:
    """Start a server that cannot work; return all that it answers."""
    keystone.start()
    client = Client(keystone.url, keystone.workers)
    made_up = f'kc1_{"x" * 43}'
    answers = [
        _log_in(client, password),
        client.request('GET', '/auth/tokens', made_up, made_up),
        client.request('GET', '/users', made_up),
    ]
    bodies = []
    for answer in answers:
        if answer.status_code == 401:
            continue  # it could read that there is no such token
        assert answer.status_code == 503, answer.text
        assert answer.json()['error']['message'] in _TEXTS
        bodies.append(json.dumps(dict(answer.headers)) + answer.text)
    assert bodies
    return bodies


def _with(settings: Settings, **options: Any) -> Settings:
    return merge(settings, {'cassandra': options})


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({}, ['permission', 'INSERT INTO']),
        ({'keyspace': 'nowhere_else'}, ['nowhere_else']),
        (
            {'tls_enabled': True, 'tls_key_file': '/nowhere/node.key'}
            | {'tls_cert_file': '/nowhere/node.pem'},
            ['/nowhere/node.'],
        ),
        ({'local_dc': 'elsewhere'}, ['elsewhere', 'dc1']),
        ({'port': 0}, ['[database] cassandra_node_ips']),
    ],
    ids=['permission', 'schema', 'key-file', 'datacenter', 'node'],
)
def test_the_log_says_why_and_the_answer_does_not(
    servers: Servers,
    cluster: Cluster,
    password: str,
    options: dict[str, Any],
    named: list[str],
) -> None:
    if 'port' in options:
        options = {'port': ports.free_port()}
    keystone = servers.make(
        cluster,
        _with(_ROOT, username=_READER, password=password, **options),
        keyspace=_KEYSPACE,
        schema=False,
        workers=1,
    )
    if 'keyspace' in options:
        keystone.configure(
            _with(keystone.settings, keyspace=options['keyspace'])
        )
    bodies = _answers(keystone, servers.password)
    log = '\n'.join(outages(keystone))
    for text in named:
        assert text in log
        assert not any(text in body for body in bodies)
    for body in bodies:
        assert _KEYSPACE not in body
        assert 'cassandra' not in body.lower()
    assert 'Traceback' not in keystone.log()
    told = keystone.log() + ''.join(bodies)
    assert not [part for part in awkward.parts(password) if part in told]


def test_no_table_is_named_that_is_missing(
    servers: Servers, cluster: Cluster
) -> None:
    keystone = servers.make(cluster, _ROOT, keyspace='lacking', workers=1)
    provider = PlainTextAuthProvider('cassandra', 'cassandra')
    with cluster.connect(auth_provider=provider) as session:
        session.execute('DROP TABLE lacking."token"', timeout=60)
    bodies = _answers(keystone, servers.password)
    assert '`keystone-cassandra schema apply`' in outages(keystone)[0]
    assert not any('schema' in body for body in bodies)


@pytest.mark.parametrize(
    ('option', 'by', 'name'),
    [
        ('password', 'file', 'SECRETPART'),
        ('password', 'environment', 'keyspace'),
        ('token_key', 'file', 'keyspace'),
        ('token_key', 'environment', 'SECRETPART'),
    ],
)
def test_no_part_of_a_secret_with_a_dollar_is_told(
    servers: Servers,
    cluster: Cluster,
    option: str,
    by: str,
    name: str,
) -> None:
    value = f'FIRSTPART{"x" * 32}${name}'
    variable = {f'OS_CASSANDRA__{option.upper()}': value}
    keystone = servers.make(
        cluster,
        _ROOT,
        keyspace=_KEYSPACE,
        schema=False,
        workers=1,
        environment=variable if by == 'environment' else {},
    )
    if by == 'file':
        text = keystone.configuration.read_text()
        keystone.configuration.write_text(
            text + f'[cassandra]\n{option} = {value}\n'
        )
    bodies = _answers(keystone, servers.password)
    log = keystone.log()
    assert f'[cassandra] {option}: its value holds a `$`' in log
    for text in log, *bodies:
        assert 'FIRSTPART' not in text
        assert 'SECRETPART' not in text


def _health(keystone: Keystone, **options: Any) -> requests.Response:
    return requests.get(f'{keystone.url}/healthcheck', timeout=60, **options)


def _default_file(home: Path) -> dict[str, str]:
    """Ask for the health check where its middleware reads it."""
    (home / '.keystone').mkdir()
    (home / '.keystone' / 'keystone.conf').write_text(
        '[healthcheck]\nbackends = cassandra\ndetailed = true\n'
    )
    return {'HOME': str(home)}


@pytest.mark.parametrize('kind', ['application/json', 'text/plain'])
def test_the_health_check_says_no_more(
    servers: Servers, cluster: Cluster, tmp_path: Path, kind: str
) -> None:
    keystone = servers.make(
        cluster,
        _with(_ROOT, local_dc='elsewhere'),
        keyspace=_KEYSPACE,
        schema=False,
        workers=1,
        environment=_default_file(tmp_path),
    )
    keystone.start()
    answer = _health(keystone, headers={'Accept': kind})
    assert answer.status_code == 503
    assert 'Cassandra is not available' in answer.text
    assert 'elsewhere' not in answer.text
    assert 'elsewhere' in keystone.log()


def test_the_health_check_does_not_wait_for_a_node_that_hangs(
    servers: Servers, cluster: Cluster, tmp_path: Path
) -> None:
    keystone = servers.make(
        cluster,
        _with(
            _ROOT,
            connect_timeout=60,
            request_timeout=60,
            request_deadline=60,
        ),
        keyspace='healthy',
        workers=1,
        environment=_default_file(tmp_path),
    )
    keystone.start()
    until(lambda: _health(keystone).status_code == 200, 'it is well')
    cluster.nodes[0].pause()
    try:
        # Before the time-outs of requests.
        assert {
            keystone.status('/healthcheck', timeout=20) for _ in range(3)
        } == {503}
    finally:
        cluster.nodes[0].resume()
    until(lambda: _health(keystone).status_code == 200, 'it is well')
    assert 'no answer within [cassandra] request_timeout' in keystone.log()
    assert 'is not safe with several threads' not in keystone.log()


def test_the_health_check_is_read_from_default_files_alone(
    servers: Servers,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))  # also of the doctor below
    keystone = servers.make(
        cluster,
        _with(_ROOT, local_dc='elsewhere'),
        {'healthcheck': {'backends': 'cassandra'}},
        keyspace=_KEYSPACE,
        schema=False,
        workers=1,
    )
    keystone.start()
    assert _health(keystone).status_code == 200
    run = functools.partial(
        command.here, '--config-file', str(keystone.configuration), 'doctor'
    )
    assert 'warn  healthcheck: [healthcheck] backends' in run().stdout
    _default_file(tmp_path)
    keystone.restart()
    assert _health(keystone).status_code == 503
    assert 'ok    healthcheck: ' in run().stdout
