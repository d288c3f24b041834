# SPDX-License-Identifier: Apache-2.0
"""A Keystone without any SQL database: its commands and its server.

In each process SQLAlchemy raises when an engine is made, which is the first
that anybody does who wants SQL, and notes it in a file.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import statements
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.people import People, soon
from lab.server import (
    ALL_DRIVERS,
    Keystone,
    ServerError,
    merge,
)

from tests.fault.keystone_servers import all_on_cassandra

_POISON = """\
import os
import sqlalchemy
import sqlalchemy.engine
import sqlalchemy.engine.create

def refuse(*args, **kwargs):
    with open({note!r}, 'a') as note:
        note.write('touched\\n')
    raise RuntimeError('SQL was touched')

for module in (
    sqlalchemy, sqlalchemy.engine, sqlalchemy.engine.create
):
    module.create_engine = refuse
"""

#: Who owns keys, where the command is not that of a user of its own.
_OWNER = (
    f'--keystone-user={pwd.getpwuid(os.getuid()).pw_name}',
    f'--keystone-group={grp.getgrgid(os.getgid()).gr_name}',
)

_PASSWORD = secrets.token_urlsafe(16)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('no-sql')


@pytest.fixture(scope='module')
def note(folder: Path) -> Path:
    """A file that is there once SQL was touched."""
    return folder / 'touched'


@pytest.fixture(scope='module')
def keystone(
    cassandra_cluster: Cluster, folder: Path, note: Path
) -> Iterator[Keystone]:
    """A server that knows Cassandra alone, bootstrapped and started."""
    (folder / 'sitecustomize.py').write_text(_POISON.format(note=str(note)))
    patch = pytest.MonkeyPatch()
    path = [str(folder), os.environ.get('PYTHONPATH', '')]
    patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, path)))
    domains = folder / 'domains'
    domains.mkdir()
    try:
        with all_on_cassandra(
            cassandra_cluster,
            folder / 'keystone',
            _PASSWORD,
            {'identity': {'domain_config_dir': domains}},
            by_command=True,
        ) as keystone:
            yield keystone
    finally:
        patch.undo()


@pytest.fixture
def client(keystone: Keystone) -> Iterator[Client]:
    client = Client(keystone.url, keystone.workers)
    yield client
    client.close()


@pytest.fixture
def untouched(note: Path) -> Iterator[None]:
    yield
    assert not note.exists()


def test_the_poison_works(keystone: Keystone, note: Path) -> None:
    """What always wants SQL is refused, and noted."""
    assert 'connection' not in keystone.configuration.read_text()
    with pytest.raises(ServerError, match='SQL was touched'):
        keystone.manage('db_version')
    assert note.exists()
    note.unlink()


@pytest.mark.usefixtures('untouched')
class TestServer:
    def test_a_life(self, client: Client) -> None:
        login = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE)
        admin = login.auth_token
        assert login.service_catalog.url_for(service_type='identity')
        people = People(client, admin)
        token = people.log_in('alice')
        assert set(client.validate_everywhere(admin, token).values()) == {200}
        trust = people.trust(token, client, soon(3600))
        people.use_trust(trust, client)
        credential = people.application_credential(token, client, soon(3600))
        client.log_in_by_credential(*credential)
        client.request('DELETE', '/auth/tokens', admin, token)
        assert set(client.validate_everywhere(admin, token).values()) == {404}
        people.remove(admin)

    @pytest.mark.parametrize(
        'path',
        [
            '/projects',
            '/domains',
            '/users',
            '/groups',
            '/roles',
            '/role_assignments',
            '/role_inferences',
            '/services',
            '/endpoints',
            '/regions',
            '/credentials',
            '/policies',
            '/limits',
            '/registered_limits',
            '/OS-TRUST/trusts',
            '/OS-FEDERATION/identity_providers',
            '/OS-FEDERATION/mappings',
            '/OS-FEDERATION/service_providers',
            '/OS-OAUTH1/consumers',
            '/OS-EP-FILTER/endpoint_groups',
            '/OS-REVOKE/events',
            '/domains/config/default',
            '/auth/projects',
            '/auth/catalog',
        ],
    )
    def test_lists(self, client: Client, path: str) -> None:
        admin = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE).auth_token
        assert client.request('GET', path, admin).status_code == 200


@pytest.mark.usefixtures('untouched')
class TestCommands:
    """``keystone-manage`` and ours, beside the running server."""

    @pytest.mark.parametrize(
        'words',
        [
            ('trust_flush',),
            ('mapping_populate', '--domain-name', 'Default'),
            ('mapping_purge', '--all'),
            ('credential_setup', *_OWNER),
            ('credential_migrate', *_OWNER),
            ('credential_rotate', *_OWNER),
            ('fernet_setup', *_OWNER),
            ('fernet_rotate', *_OWNER),
            ('receipt_setup', *_OWNER),
            ('receipt_rotate', *_OWNER),
            ('domain_config_upload', '--domain-name', 'Default'),
            ('bootstrap', '--bootstrap-password', _PASSWORD),
            ('project_setup', '--project-name', 'another'),
            (
                'user_setup',
                '--username=another',
                '--user-password-plain=secret',
                f'--user-id={uuid.uuid4().hex}',
            ),
        ],
        ids=lambda words: words[0],
    )
    def test_keystone_manage(
        self, keystone: Keystone, folder: Path, words: tuple[str, ...]
    ) -> None:
        configuration = folder / 'domains' / 'keystone.Default.conf'
        configuration.write_text('[ldap]\nurl = ldap://localhost\n')
        keystone.manage(*words)

    def test_credentials_outlive_a_rotation_of_keys(
        self, keystone: Keystone, client: Client, cassandra_cluster: Cluster
    ) -> None:
        login = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE)
        secret = uuid.uuid4().hex
        made = client.call(
            'POST',
            '/credentials',
            login.auth_token,
            {
                'credential': {
                    'type': 'cert',
                    'blob': secret,
                    'user_id': login.user_id,
                    'project_id': login.project_id,
                }
            },
        )

        def stored() -> tuple[str, str]:
            keyspace = keystone.settings['cassandra']['keyspace']
            with cassandra_cluster.connect() as session:
                row = session.execute(
                    'SELECT encrypted_blob, key_hash'
                    f' FROM {keyspace}.credential WHERE id = %s',
                    (made['id'],),
                ).one()
            return row.encrypted_blob, row.key_hash

        keystone.manage('credential_migrate', *_OWNER)
        before = stored()
        keystone.manage('credential_rotate', *_OWNER)
        # Not twice: this one's key would be gone.
        with pytest.raises(ServerError):
            keystone.manage('credential_rotate', *_OWNER)
        keystone.manage('credential_migrate', *_OWNER)
        after = stored()
        assert before[1] != after[1]
        assert secret not in before[0] + after[0]
        keystone.manage('credential_rotate', *_OWNER)
        shown = client.request(
            'GET', f'/credentials/{made["id"]}', login.auth_token
        )
        assert shown.json()['credential']['blob'] == secret

    def test_keystones_own_doctor(self, keystone: Keystone) -> None:
        """It takes no connection for SQLite, and warns of that alone."""
        with pytest.raises(ServerError, match='exited with 1') as raised:
            keystone.manage('doctor')
        assert 'SQLite does not enforce type checking' in str(raised.value)

    def test_doctor(self, keystone: Keystone) -> None:
        told = keystone.run('keystone-cassandra', 'doctor')
        assert 'not in Cassandra' not in told
        assert 'to keep this data in Cassandra' not in told


def test_commands_of_sql_leave_a_file_behind(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page on installation says of them; they may touch SQL."""
    path = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    others = os.pathsep.join(each for each in path if each != str(folder))
    monkeypatch.setenv('PYTHONPATH', others)
    bare = Keystone(tmp_path / 'bare', ALL_DRIVERS, sql=False)
    try:
        with pytest.raises(ServerError, match='exited with 2'):
            bare.manage('db_sync', '--check')
        assert (bare.directory / 'keystone.db').exists()
        (bare.directory / 'keystone.db').unlink()
        assert bare.run('keystone-manage', 'db_version') == 'None\n'
        assert (bare.directory / 'keystone.db').exists()
    finally:
        bare.stop()


def test_a_database_that_cannot_be_opened_is_not_asked(
    keystone: Keystone, folder: Path
) -> None:
    second = Keystone(
        folder / 'second',
        merge(
            keystone.settings,
            {
                'database': {
                    'connection': 'mysql+pymysql://nobody@127.0.0.1:1/none'
                }
            },
        ),
        workers=1,
        sql=False,
    )
    try:
        second.start()
        client = Client(second.url, 1)
        client.log_in('admin', _PASSWORD, **ADMIN_SCOPE)
        client.close()
    finally:
        second.stop()


#: Requests to Cassandra that wait for each other.
MOST_WAITS = 12


@pytest.fixture
def counted(keystone: Keystone, folder: Path) -> Path:
    """The file to which the server's only worker writes what it sends."""
    path = folder / 'statements'
    keystone.stop()
    keystone.workers = 1
    keystone.environment[statements.VARIABLE] = str(path)
    keystone.start()
    return path


def test_few_requests_wait_for_each_other(
    keystone: Keystone, counted: Path
) -> None:
    """In a log-in of the administrator, and a validation."""
    with contextlib.closing(Client(keystone.url, 1)) as client:
        # The first ones connect, and learn what the next ones ask for.
        for _ in range(3):
            admin = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE)
            token = admin.auth_token
            assert client.validate(token, token) == 200
    # Others only look for a worker.
    *_, log_in, validation = filter(None, statements.read(counted))
    for sent in log_in, validation:
        waits = statements.trips(sent).waits
        assert 1 < waits <= MOST_WAITS, [
            (each.wait, each.text) for each in sent
        ]
