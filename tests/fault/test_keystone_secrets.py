# SPDX-License-Identifier: Apache-2.0
"""Nodes that ask for TLS and a password; nothing secret in the logs."""

from __future__ import annotations

import os
import re
import secrets
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import NoHostAvailable
from lab.cassandra import Cluster
from lab.cassandra_install import find_java
from lab.client import ADMIN_SCOPE, Client
from lab.people import People, soon
from lab.server import Keystone, ServerError, Settings
from lab.waiting import until

from tests import awkward
from tests.conftest import RESTARTED
from tests.fault.keystone_servers import (
    Servers,
    login_status,
    make_schema,
    outages,
)

_ROLE = 'keystone_test'


class Guarded:
    """A node that asks for TLS and a password.

    :ivar settings: the options with which a Keystone gets in.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.password = awkward.secret()
        self.store_password = secrets.token_urlsafe(16)
        self._make_certificate()
        self.cluster = Cluster.start(
            own=True,
            commitlog_sync='batch',
            java_options=RESTARTED,
            yaml={
                'authenticator': 'PasswordAuthenticator',
                'authorizer': 'CassandraAuthorizer',
                'client_encryption_options': {
                    'enabled': True,
                    'optional': False,
                    'keystore': str(directory / 'node.p12'),
                    'keystore_password': self.store_password,
                    'store_type': 'PKCS12',
                },
            },
        )
        self.settings: Settings = {
            'cassandra': {
                'username': _ROLE,
                'password': self.password,
                'tls_enabled': True,
                'tls_ca_file': directory / 'node.pem',
                # The certificate was made before the address was known.
                'tls_verify_hostname': False,
            }
        }

    def _make_certificate(self) -> None:
        keytool = Path(find_java().path).resolve().with_name('keytool')
        store = ['-keystore', str(self._directory / 'node.p12')]
        store += ['-alias', 'node', '-storepass:env', 'STORE_PASSWORD']
        make = ['-genkeypair', '-keyalg', 'RSA', '-dname', 'CN=node']
        export = ['-exportcert', '-rfc', '-file', self._directory / 'node.pem']
        for arguments in make, export:
            subprocess.run(
                [keytool, *arguments, *store],
                env=os.environ | {'STORE_PASSWORD': self.store_password},
                check=True,
                capture_output=True,
            )

    def superuser(self) -> Any:
        """Return a context with a session of the first superuser."""
        context = ssl.create_default_context(
            cafile=str(self._directory / 'node.pem')
        )
        context.check_hostname = False
        return self.cluster.connect(
            ssl_context=context,
            auth_provider=PlainTextAuthProvider('cassandra', 'cassandra'),
        )

    def add_role(self, role: str, password: str) -> None:
        """Make a role that may do all."""
        with self.superuser() as session:
            session.execute(
                f'CREATE ROLE {role} WITH PASSWORD ='
                f" '{awkward.in_cql(password)}'"
                ' AND LOGIN = true AND SUPERUSER = true'
            )

    def set_password(self, role: str, password: str) -> None:
        """Give a role another password."""

        def changed() -> bool:
            try:
                session.execute(
                    f'ALTER ROLE {role} WITH PASSWORD ='
                    f" '{awkward.in_cql(password)}'"
                )
            except NoHostAvailable:
                return False  # it was changed less than 5 s ago
            return True

        with self.superuser() as session:
            until(changed, 'the password is changed')


@pytest.fixture(scope='module')
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp('guarded'))
    try:
        guarded.add_role(_ROLE, guarded.password)
        yield guarded
    finally:
        guarded.cluster.stop()


def _refuses(keystone: Keystone, servers: Servers, named: str) -> Client:
    keystone.start()
    client = Client(keystone.url, keystone.workers)
    for _ in range(3):
        assert login_status(client, servers.password) == 503
    (line,) = outages(keystone)
    assert named in line
    assert 'Traceback' not in keystone.log()
    return client


def test_wrong_password(servers: Servers, guarded: Guarded) -> None:
    password = awkward.secret()
    guarded.add_role('late', secrets.token_urlsafe(16))
    keystone = servers.make(guarded.cluster, guarded.settings, workers=1)
    keystone.configure(
        _with(
            keystone.settings, 'cassandra', username='late', password=password
        )
    )
    client = _refuses(keystone, servers, '[cassandra] username and password')
    with pytest.raises(ServerError, match='username and password'):
        keystone.run('keystone-cassandra', 'schema', 'status')
    guarded.set_password('late', password)
    until(
        lambda: login_status(client, servers.password) == 201,
        'it logs in once the role has the password',
    )
    log = keystone.log() + keystone.commands_log()
    assert not [part for part in awkward.parts(password) if part in log]


def test_a_password_that_is_refused_for_a_while(
    servers: Servers, guarded: Guarded
) -> None:
    """The driver never asks a node again that has refused a log-in."""
    password = secrets.token_urlsafe(16)
    guarded.add_role('changed', password)
    keystone = servers.make(guarded.cluster, guarded.settings)
    keystone.configure(
        _with(
            keystone.settings,
            'cassandra',
            username='changed',
            password=password,
        )
    )
    keystone.start()
    client = Client(keystone.url, keystone.workers)
    for worker in client.workers:
        assert login_status(client, servers.password, worker) == 201
    guarded.set_password('changed', secrets.token_urlsafe(16))
    (node,) = guarded.cluster.nodes
    node.nodetool('disablebinary')
    node.nodetool('enablebinary')

    def statuses() -> set[int]:
        return {
            login_status(client, servers.password, worker)
            for worker in client.workers
        }

    # The first worker that a node refuses tells it for all.
    until(
        lambda: (
            statuses() == {503}
            and 'Connecting afresh failed' in keystone.log()
        ),
        'a log-in that is refused',
    )
    guarded.set_password('changed', password)
    until(lambda: statuses() == {201}, 'each worker answers again')
    log = keystone.log()
    # Each reason once, and on a busy machine a time-out may be another one.
    lines = re.findall('Connecting afresh failed.*', log)
    assert sum('[cassandra] username and password' in line for line in lines)
    assert password not in log
    client.close()


def test_no_tls_where_the_nodes_want_it(
    servers: Servers, guarded: Guarded
) -> None:
    keystone = servers.make(guarded.cluster, guarded.settings, workers=1)
    right = keystone.settings
    keystone.configure(_with(right, 'cassandra', tls_enabled=False))
    client = _refuses(keystone, servers, '[cassandra] tls_enabled')
    client.close()
    keystone.configure(right)
    keystone.restart()
    client = Client(keystone.url, keystone.workers)
    assert login_status(client, servers.password) == 201


def test_certificate_of_an_unknown_authority(
    servers: Servers, guarded: Guarded
) -> None:
    keystone = servers.make(guarded.cluster, guarded.settings, workers=1)
    settings = {
        name: dict(options) for name, options in keystone.settings.items()
    }
    del settings['cassandra']['tls_ca_file']
    keystone.configure(settings)
    _refuses(keystone, servers, 'certificate verify failed')


def _with(settings: Settings, section: str, **options: Any) -> Settings:
    return {**settings, section: {**settings[section], **options}}


class Run:
    """A full run of all that touches the drivers, and its secrets."""

    def __init__(self, client: Client, password: str) -> None:
        self._client = client
        self.secrets = {'password of admin': password}
        self._password = password

    def _keep(self, kind: str, secret: str) -> str:
        self.secrets[f'{kind} {len(self.secrets)}'] = secret
        return secret

    def log_in(self) -> str:
        access = self._client.log_in('admin', self._password, **ADMIN_SCOPE)
        return self._keep('token', access.auth_token)

    def tokens(self, admin: str) -> None:
        client = self._client
        assert set(client.validate_everywhere(admin, admin).values()) == {200}
        for unknown in (
            self._keep('unknown token', f'kc1_{secrets.token_urlsafe(32)}'),
            self._keep('malformed token', f'kc9_{secrets.token_urlsafe(32)}'),
            self._keep('long token', secrets.token_urlsafe(2000)),
        ):
            assert client.validate(admin, unknown) == 404
            assert client.validate(unknown, admin) == 401
        wrong = self._keep('wrong password', awkward.secret())
        assert login_status(client, wrong) == 401

    def people(self, admin: str) -> People:
        client = self._client
        people = People(client, admin)
        for name in people.ids:
            self._keep(name, people.passwords[name])
        alice = self._keep('token', people.log_in('alice'))
        trust = people.trust(alice, client, soon(600))
        used = [people.use_trust(trust, client) for _ in range(2)]
        for token in used:
            self._keep('trust token', token)
            assert client.validate(admin, token) == 404
        revoked = self._keep('token', people.log_in('alice'))
        answer = client.request('DELETE', '/auth/tokens', admin, revoked)
        assert answer.status_code == 204
        assert client.validate(admin, revoked) == 404
        self._application_credential(people, alice, admin)
        path = f'/OS-TRUST/trusts/{trust}'
        assert client.request('DELETE', path, alice).status_code == 404
        return people

    def _application_credential(
        self, people: People, alice: str, admin: str
    ) -> None:
        made = self._client.call(
            'POST',
            f'/users/{people.ids["alice"]}/application_credentials',
            alice,
            {'application_credential': {'name': 'robot'}},
        )
        secret = self._keep('application secret', made['secret'])
        answer = self._client.request(
            'POST',
            '/auth/tokens',
            '',
            json={
                'auth': {
                    'identity': {
                        'methods': ['application_credential'],
                        'application_credential': {
                            'id': made['id'],
                            'secret': secret,
                        },
                    }
                }
            },
        )
        token = self._keep('token', answer.headers['X-Subject-Token'])
        assert self._client.validate(admin, token) == 200

    def end(self, people: People, admin: str) -> None:
        client = self._client
        alice = self._keep('token', people.log_in('alice'))
        new = self._keep('new password', awkward.secret())
        change = {
            'original_password': people.passwords['alice'],
            'password': new,
        }
        path = f'/users/{people.ids["alice"]}'
        client.call('POST', f'{path}/password', alice, {'user': change})
        assert client.validate(admin, alice) == 404
        bob = self._keep('token', people.log_in('bob'))
        path = f'/users/{people.ids["bob"]}'
        client.call('PATCH', path, admin, {'user': {'enabled': False}})
        assert client.validate(admin, bob) == 404
        answer = client.request('GET', '/OS-REVOKE/events', admin)
        assert answer.json()['events']
        people.remove(admin)


def test_nothing_secret_in_the_debug_log(
    servers: Servers, guarded: Guarded
) -> None:
    key = awkward.secret()
    keystone = servers.make(
        guarded.cluster,
        guarded.settings,
        {
            'DEFAULT': {'debug': True},
            'cassandra': {'token_key': key},
        },
    )
    make_schema(keystone)  # commands log, too
    keystone.start()
    client = Client(keystone.url, keystone.workers)
    run = Run(client, servers.password)
    run.secrets['token_key'] = key
    run.secrets['password for Cassandra'] = guarded.password
    admin = run.log_in()
    run.tokens(admin)
    people = run.people(admin)
    guarded.cluster.nodes[0].kill()
    assert client.validate(admin, admin) == 503
    assert login_status(client, servers.password) == 503
    guarded.cluster.nodes[0].start()
    until(
        lambda: (
            set(client.validate_everywhere(admin, admin).values()) == {200}
        ),
        'every worker validates again',
    )
    run.end(people, admin)
    keystone.stop()

    log = keystone.log() + keystone.commands_log()
    for logger in 'keystone_cassandra_token.db.sender', 'cassandra.connection':
        assert f'DEBUG {logger}' in log, 'else nothing is tested'
    found = [
        kind
        for kind, secret in run.secrets.items()
        # Also without the prefix of tokens, and a part alone.
        if any(
            part in log
            for part in (secret, secret[4:], *awkward.parts(secret))
        )
    ]
    assert not found
