# SPDX-License-Identifier: Apache-2.0
"""The roles of ``roles.cql`` on a node with an authorizer."""

from __future__ import annotations

import importlib
import pkgutil
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cassandra
import command
import pytest
from cassandra.auth import PlainTextAuthProvider
from lab.cassandra import Cluster
from oslo_config import cfg

from keystone_cassandra_token import drivers, revocation_ttl
from keystone_cassandra_token.cmd import cluster_checks
from keystone_cassandra_token.db import changes, errors, nodes, servers
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.findings import State
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    migrate,
    roles,
    version,
)
from keystone_cassandra_token.tables import reconcile, removals, unique
from tests import awkward, sweep
from tests.conftest import FORGETFUL

KEYSPACE = 'roles'
PASSWORD = awkward.secret()

_VALUES: dict[str, Any] = {
    'varchar': 'x',
    'text': 'x',
    'bigint': 1,
    'int': 1,
    'boolean': True,
    'blob': b'x',
    'uuid': uuid.UUID(int=1),
    'timeuuid': uuid.uuid1(1, 1),
    'set<varchar>': {'x'},
    'map<varchar, varchar>': {'x': 'x'},
    'map<varchar, bigint>': {'x': 1},
}


def _statements(thing: Any, depth: int = 2) -> Iterator[Statement]:
    """Yield the statements of a module and of the objects in it."""
    for value in vars(thing).values():
        if isinstance(value, Statement):
            yield value
        elif (
            depth
            and hasattr(value, '__dict__')
            and type(value).__module__.startswith('keystone_cassandra_token')
        ):
            yield from _statements(value, depth - 1)


MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(
        drivers.__path__, drivers.__name__ + '.'
    )
] + [changes, removals, revocation_ttl, servers, version, reconcile]
STATEMENTS = sorted(
    {statement for module in MODULES for statement in _statements(module)},
    key=str,
)


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    # Always one of our own: it needs an authorizer, and a fresh one.
    with Cluster.start(
        own=True,
        java_options=[FORGETFUL],
        yaml={
            'authenticator': 'PasswordAuthenticator',
            'authorizer': 'CassandraAuthorizer',
            'permissions_validity': '0ms',
            'roles_validity': '0ms',
            'credentials_validity': '0ms',
        },
    ) as cluster:
        yield cluster


Make = Callable[..., cfg.ConfigOpts]


@pytest.fixture(scope='module')
def options(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Make:
    """A function that makes the options of a role."""

    def make(username: str, password: str = PASSWORD) -> cfg.ConfigOpts:
        run = command.for_nodes(
            tmp_path_factory.mktemp('conf'),
            cluster.contact_points,
            cluster.port,
            KEYSPACE,
            cassandra={
                'username': username,
                'password': awkward.in_conf(password),
            },
        )
        return command.configuration(run.path)

    return make


@pytest.fixture(scope='module')
def superuser(cluster: Cluster) -> Iterator[Any]:
    provider = PlainTextAuthProvider('cassandra', 'cassandra')
    with cluster.connect(auth_provider=provider) as session:
        session.default_timeout = 60
        yield session


def _run(superuser: Any) -> None:
    text = re.sub('^--.*$', '', roles.text(KEYSPACE), flags=re.MULTILINE)
    for statement in filter(None, map(str.strip, text.split(';'))):
        superuser.execute(statement)


@pytest.fixture(scope='module')
def migrated(options: Make, superuser: Any) -> None:
    """The schema, and the roles by one run of their CQL."""
    by_root = options('cassandra', 'cassandra')
    migrate.create_keyspace(by_root, report=lambda line: None)
    migrate.apply(by_root, report=lambda line: None)
    _run(superuser)
    for role in ('migration', 'server'):
        superuser.execute(
            f'ALTER ROLE {KEYSPACE}_{role} WITH PASSWORD ='
            f" '{awkward.in_cql(PASSWORD)}'"
        )


@pytest.fixture(scope='module')
def server(options: Make, migrated: None) -> Iterator[Any]:
    """A connection of the role for servers."""
    with ddl.connected(options(f'{KEYSPACE}_server')) as connection:
        nodes.reach_all(connection)
        yield connection


def test_the_migrator_could_do_it_all(
    options: Make, migrated: None, superuser: Any
) -> None:
    # What the first run made belongs to the superuser: a table is made again.
    superuser.execute(f'DROP TABLE {KEYSPACE}.receipt')
    for migration in files.migrations():
        superuser.execute(
            f'DELETE FROM {KEYSPACE}.schema_migration WHERE level ='
            f' {migration.version}'
        )
    conf = options(f'{KEYSPACE}_migration')
    migrate.apply(conf, report=lambda line: None)
    assert migrate.verify(conf) == []
    superuser.execute(
        f'GRANT MODIFY ON {KEYSPACE}.receipt TO {KEYSPACE}_server'
    )
    assert migrate.status(conf).version == migrate.status(conf).needed


def test_the_migrator_makes_no_keyspace(options: Make, migrated: None) -> None:
    conf = options(f'{KEYSPACE}_migration')
    conf.set_override('keyspace', 'other', 'cassandra')
    with pytest.raises(errors.StoreUnavailable, match='lacks a permission'):
        migrate.create_keyspace(conf, report=lambda line: None)


def test_there_are_statements_of_all_tables() -> None:
    tables = {statement.table for statement in STATEMENTS}
    assert tables == describe.current().keys() - {'schema_lock'}
    assert any(
        isinstance(value, unique.Claims)
        for module in MODULES
        for value in vars(module).values()
    )


def test_the_server_runs_what_its_drivers_do(server: Any) -> None:
    def run(statement: Statement) -> None:
        prepared = server.prepare(statement)
        values = {}
        for column in prepared.column_metadata:
            kind = column.type.cql_parameterized_type()
            inner = re.search(r'list<(\w+)>', kind)
            values[column.name] = (
                [_VALUES[inner[1]]] if inner else _VALUES[kind]
            )
        # Bare values and no sense, but Cassandra checks permissions first.
        server.session.execute(prepared.bind(values))

    # By number, too: there are equal ones in several places.
    cases = {
        f'{number}: {statement}': (statement,)
        for number, statement in enumerate(STATEMENTS)
    }
    sweep.each(cases, run)


@pytest.mark.parametrize(
    'cql',
    [
        'CREATE TABLE {}.mine (a int PRIMARY KEY)',
        'ALTER TABLE {}.trust ADD mine text',
        'ALTER TABLE {}."token" WITH gc_grace_seconds = 0',
        'DROP TABLE {}.trust',
        'DROP KEYSPACE {}',
        'CREATE INDEX ON {}.trust (project_id)',
        'INSERT INTO {}.schema_migration (level) VALUES (99)',
        'DELETE FROM {}.schema_migration WHERE level = 1',
        "INSERT INTO {}.schema_lock (name, holder) VALUES ('x', 'y')",
        'TRUNCATE {}.schema_migration',
        'SELECT * FROM system_auth.roles',
        "CREATE ROLE mine WITH PASSWORD = 'x'",
        'GRANT ALL ON KEYSPACE {} TO roles_server',
    ],
)
def test_the_server_can_do_nothing_else(server: Any, cql: str) -> None:
    with pytest.raises(cassandra.Unauthorized):
        server.session.execute(cql.format(KEYSPACE))


def test_the_doctor_sees_the_authenticator(
    options: Make, migrated: None
) -> None:
    conf = options(f'{KEYSPACE}_migration')
    with ddl.connected(conf) as connection:
        nodes.reach_all(connection)
        (found,) = cluster_checks.authentication(connection, conf)
        assert found.state is State.OK
        assert 'PasswordAuthenticator' in found.text
        (found,) = cluster_checks.expiry(connection, conf)
        assert found.state is State.OK


def test_the_doctor_says_what_a_server_may_not_see(
    server: Any, options: Make
) -> None:
    conf = options(f'{KEYSPACE}_server')
    (found,) = cluster_checks.authentication(server, conf)
    assert found.state is State.WARN
    assert 'schema roles' in found.text


def test_a_wrong_password_is_named_and_not_shown(
    cluster: Cluster, migrated: None, tmp_path: Path
) -> None:
    wrong = awkward.secret()
    run = command.for_nodes(
        tmp_path,
        cluster.contact_points,
        cluster.port,
        KEYSPACE,
        cassandra={
            'username': f'{KEYSPACE}_server',
            'password': awkward.in_conf(wrong),
        },
    )
    done = run.here('doctor')
    assert done.returncode == 1
    assert '[cassandra] username and password' in done.stdout
    done = run.here('schema', 'apply')
    assert '[cassandra] username and password' in command.last_line(done)
    text = done.stdout + done.stderr
    assert not [part for part in awkward.parts(wrong) if part in text]


def test_applying_as_a_server_names_what_is_lacking(
    options: Make, migrated: None, superuser: Any
) -> None:
    superuser.execute(
        f'DELETE FROM {KEYSPACE}.schema_migration WHERE level = 4'
    )
    try:
        with pytest.raises(errors.StoreUnavailable, match='permission'):
            migrate.apply(
                options(f'{KEYSPACE}_server'), report=lambda line: None
            )
    finally:
        migrate.apply(
            options(f'{KEYSPACE}_migration'), report=lambda line: None
        )


@pytest.fixture
def revoked(superuser: Any, migrated: None) -> Iterator[list[str]]:
    """What the servers' role lacks, as after a migration; all of it later."""
    tables = ['revocation', '"token"']
    for table in tables:
        superuser.execute(
            f'REVOKE MODIFY ON {KEYSPACE}.{table} FROM {KEYSPACE}_server'
        )
    grants = [
        f'GRANT MODIFY ON {KEYSPACE}.{table} TO {KEYSPACE}_server;'
        for table in tables
    ]
    yield grants
    for grant in grants:
        superuser.execute(grant)


def _command(cluster: Cluster, folder: Path, role: str) -> command.Command:
    password = 'cassandra' if role == 'cassandra' else PASSWORD
    return command.for_nodes(
        folder,
        cluster.contact_points,
        cluster.port,
        KEYSPACE,
        cassandra={
            'username': role,
            'password': awkward.in_conf(password),
        },
    )


@pytest.mark.parametrize('role', ['server', 'migration'])
def test_the_doctor_lists_the_grants_that_lack(
    cluster: Cluster, revoked: list[str], tmp_path: Path, role: str
) -> None:
    done = _command(cluster, tmp_path, f'{KEYSPACE}_{role}').here('doctor')
    assert done.returncode == 1
    (line,) = (
        line
        for line in done.stdout.splitlines()
        if line.startswith('FAIL  permissions: ')
    )
    assert f'role {KEYSPACE}_server lacks 2 permissions' in line
    assert sorted(re.findall('GRANT [^;]*;', line)) == sorted(revoked)


@pytest.mark.parametrize('role', ['server', 'migration', None])
def test_the_doctor_is_content_with_all_grants(
    cluster: Cluster, migrated: None, tmp_path: Path, role: str | None
) -> None:
    user = f'{KEYSPACE}_{role}' if role else 'cassandra'
    done = _command(cluster, tmp_path, user).here('doctor')
    lines = [x for x in done.stdout.splitlines() if ' permissions: ' in x]
    assert f'ok    permissions: role {KEYSPACE}_server may do' in lines[-1]
    assert all(line.startswith('ok  ') for line in lines)


def test_the_doctor_asks_for_no_grant_on_what_is_not_there(
    cluster: Cluster, migrated: None, superuser: Any, tmp_path: Path
) -> None:
    run = _command(cluster, tmp_path, f'{KEYSPACE}_server')
    run.path.write_text(
        run.path.read_text().replace(f'= {KEYSPACE}\n', '= nowhere\n')
    )
    done = run.here('doctor')
    assert done.stdout.count('nowhere') == 1
    assert 'GRANT' not in done.stdout


def test_applying_says_which_grants_lack(
    cluster: Cluster, revoked: list[str], tmp_path: Path
) -> None:
    done = _command(cluster, tmp_path, f'{KEYSPACE}_migration').here(
        'schema', 'apply'
    )
    assert done.returncode == 0, done.stderr
    for grant in revoked:
        assert f'  {grant}\n' in done.stdout
    assert done.stdout.count('GRANT') == len(revoked)


def test_applying_says_that_there_are_no_roles_yet(
    cluster: Cluster, migrated: None, superuser: Any, tmp_path: Path
) -> None:
    run = _command(cluster, tmp_path, 'cassandra')
    assert 'The roles are not there' not in run.here('schema', 'apply').stdout
    superuser.execute(f'DROP ROLE {KEYSPACE}_server')
    try:
        done = run.here('schema', 'apply')
        assert 'The roles are not there' in done.stdout
        assert '`keystone-cassandra schema roles`' in done.stdout
    finally:
        _run(superuser)
        superuser.execute(
            f'ALTER ROLE {KEYSPACE}_server WITH PASSWORD ='
            f" '{awkward.in_cql(PASSWORD)}'"
        )
