# SPDX-License-Identifier: Apache-2.0
"""Migrations on a real node."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
import pytest
from cassandra import InvalidRequest, metadata
from cassandra.protocol import SyntaxException
from lab.cassandra import Cluster
from lab.schema import quick_schema
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import schema as schema_check
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db import store as stores
from keystone_cassandra_token.db.findings import State
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    keyspace,
    lease,
    migrate,
    version,
)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope='module')
def session(cassandra_cluster: Cluster) -> Iterator[Any]:
    """A session of the driver, for what the package does not do."""
    with cassandra_cluster.connect() as session:
        session.default_timeout = 60
        yield session


Make = Callable[[str], cfg.ConfigOpts]


@pytest.fixture(scope='module')
def make(
    cassandra_cluster: Cluster,
    session: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Make]:
    """A function that makes the options for a keyspace, dropped at last."""
    made = []

    def of(name: str) -> cfg.ConfigOpts:
        made.append(name)
        run = command.for_nodes(
            tmp_path_factory.mktemp('conf'),
            cassandra_cluster.contact_points,
            cassandra_cluster.port,
            name,
        )
        return command.configuration(run.path)

    yield of
    for name in made:
        session.execute(f'DROP KEYSPACE IF EXISTS {name}')


def a_name() -> str:
    return f'schema_{uuid.uuid4().hex[:12]}'


@pytest.fixture(scope='module')
def applied(make: Make) -> cfg.ConfigOpts:
    """Options of a keyspace that has the schema; each test mends it."""
    conf = make(a_name())
    migrate.create_keyspace(conf, report=quiet)
    migrate.apply(conf, report=quiet)
    return conf


@pytest.fixture
def empty(make: Make) -> cfg.ConfigOpts:
    """Options of a keyspace without tables."""
    conf = make(a_name())
    migrate.create_keyspace(conf, report=quiet)
    return conf


def test_reserved_words_are_those_that_the_node_refuses(session: Any) -> None:
    words = {*metadata.cql_keywords, *options.RESERVED}
    refused = set()
    for word in words:
        try:
            session.execute(f'SELECT * FROM {word}.nothing')
        except SyntaxException:
            refused.add(word)
        except InvalidRequest:
            pass  # there is no such keyspace, but there could be
    assert refused == options.RESERVED


def test_the_keyspace_is_made_once(make: Make) -> None:
    conf = make(a_name())
    lines: list[str] = []
    found = migrate.create_keyspace(conf, report=lines.append)
    assert found
    assert set(found.values()) <= {1, 2, 3}
    assert any(' made, ' in line for line in lines)
    assert migrate.create_keyspace(conf, report=lines.append) == found
    assert any(' exists, ' in line for line in lines)
    assert migrate.create_keyspace(conf, found, report=quiet) == found
    other = dict.fromkeys(found, 7)
    with pytest.raises(migrate.MigrationError, match='ALTER KEYSPACE'):
        migrate.create_keyspace(conf, other, report=quiet)
    with pytest.raises(migrate.MigrationError, match='no datacenter far'):
        migrate.create_keyspace(conf, {'far': 1}, report=quiet)


def test_a_keyspace_of_another_strategy_is_refused(
    make: Make, session: Any
) -> None:
    conf = make(a_name())
    session.execute(
        f'CREATE KEYSPACE {conf.cassandra.keyspace} WITH replication ='
        " {'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    with pytest.raises(migrate.MigrationError, match='NetworkTopology'):
        migrate.create_keyspace(conf, report=quiet)


def test_without_the_keyspace(make: Make) -> None:
    conf = make(a_name())
    for act in (
        lambda: migrate.apply(conf, report=quiet),
        lambda: migrate.plan(conf),
        lambda: migrate.verify(conf),
        lambda: migrate.status(conf),
    ):
        with pytest.raises(migrate.MigrationError, match='keyspace create'):
            act()


def test_current_cql_is_what_the_node_has(applied: cfg.ConfigOpts) -> None:
    assert migrate.dump(applied) == describe.packaged(), (
        'run: keystone-cassandra schema dump'
    )
    assert migrate.verify(applied) == []


def test_ids_of_the_first_tables_are_fixed(
    applied: cfg.ConfigOpts, session: Any
) -> None:
    name = applied.cassandra.keyspace
    rows = session.execute(
        'SELECT table_name, id FROM system_schema.tables'
        ' WHERE keyspace_name = %s',
        (name,),
    )
    ids = {row.table_name: str(row.id) for row in rows}
    for statement in files.migrations()[0].statements(name):
        table, fixed = re.search(
            r'EXISTS \w+\.(\w+) .*WITH id = (\S+)', statement, re.DOTALL
        ).groups()
        assert ids[table] == fixed


def test_applying_again_changes_nothing(applied: cfg.ConfigOpts) -> None:
    before = migrate.status(applied)
    lines: list[str] = []
    assert migrate.apply(applied, report=lines.append) == files.latest()
    assert not any('Applying' in line for line in lines)
    assert migrate.plan(applied) == []
    assert migrate.status(applied) == before
    assert before.version == before.needed == files.latest()
    assert before.holder is None
    assert before.settings['name_comparison'] == 'insensitive'
    for migration in files.migrations():
        assert before.applied[migration.version][:2] == (
            migration.name,
            migration.checksum,
        )


def test_a_changed_file_is_refused(
    applied: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    *rest, last = files.migrations()
    changed = dataclasses.replace(last, text=last.text + '\n-- more\n')
    monkeypatch.setattr(files, 'migrations', lambda: (*rest, changed))
    for act in (
        lambda: migrate.apply(applied, report=quiet),
        lambda: migrate.plan(applied),
    ):
        with pytest.raises(migrate.MigrationError, match='another content'):
            act()
    (finding,) = migrate.verify(applied)
    assert finding.state is State.FAIL
    assert last.name in finding.text


def test_names_cannot_be_compared_otherwise(
    applied: cfg.ConfigOpts,
) -> None:
    applied.set_override('name_comparison', 'sensitive', 'cassandra')
    try:
        with pytest.raises(migrate.MigrationError, match='name_comparison'):
            migrate.apply(applied, report=quiet)
        (finding,) = migrate.verify(applied)
        assert finding.state is State.FAIL
    finally:
        applied.clear_override('name_comparison', 'cassandra')
    assert migrate.verify(applied) == []


@pytest.mark.parametrize('option', version.SERIAL_LEVELS)
def test_a_server_that_agrees_at_another_level_is_refused(
    applied: cfg.ConfigOpts, option: str
) -> None:
    """It and the others would not see each other: both would succeed."""
    recorded = applied.cassandra[option]
    (other,) = {'SERIAL', 'LOCAL_SERIAL'} - {recorded}
    assert migrate.status(applied).settings[option] == recorded
    applied.set_override(option, other, 'cassandra')
    server = stores.Store(applied, verify=schema_check.check)
    try:
        with pytest.raises(errors.StoreUnavailable) as refused:
            server.sessions.get()
        text = f'{option} = {other}, but all servers of this keyspace have'
        assert f'{text} {recorded}' in refused.value.reason
        with pytest.raises(migrate.MigrationError, match=text):
            migrate.apply(applied, report=quiet)
        (finding,) = migrate.verify(applied)
        assert finding.state is State.FAIL

        with pytest.raises(migrate.MigrationError, match=text):
            migrate.plan(applied)
        (change,) = migrate.plan(applied, change_serial_levels=True)
        assert f"SET value = '{other}' WHERE name = '{option}'" in change

        migrate.apply(applied, report=quiet, change_serial_levels=True)
        assert migrate.verify(applied) == []
        applied.clear_override(option, 'cassandra')
        (finding,) = migrate.verify(applied)
        assert '--change-serial-levels' in finding.text
    finally:
        applied.clear_override(option, 'cassandra')
        migrate.apply(applied, report=quiet, change_serial_levels=True)
        server.close()
    assert migrate.verify(applied) == []


def test_a_keyspace_without_recorded_levels_is_told_what_to_run(
    applied: cfg.ConfigOpts, session: Any
) -> None:
    """As a former version has left it."""
    option = version.SERIAL_LEVELS[0]
    session.execute(
        f'DELETE FROM {applied.cassandra.keyspace}.schema_setting'
        ' WHERE name = %s IF EXISTS',
        (option,),
    )
    with (
        ddl.connected(applied) as connection,
        pytest.raises(errors.StoreUnavailable, match='schema apply'),
    ):
        schema_check.check(connection, applied.cassandra)
    (statement,) = migrate.plan(applied)
    assert option in statement
    migrate.apply(applied, report=quiet)
    with ddl.connected(applied) as connection:
        schema_check.check(connection, applied.cassandra)


def test_another_migrator_is_named(applied: cfg.ConfigOpts) -> None:
    with ddl.connected(applied) as connection:
        with lease.Lease(connection) as held:
            held.renew()
            found = lease.holder(connection)
            assert found is not None
            assert re.fullmatch(r'[^#]+:\d+', found.name)
            assert 0 < found.seconds <= lease.SECONDS
            with pytest.raises(lease.LeaseTaken) as raised:
                migrate.apply(applied, report=quiet)
            assert found.name in str(raised.value)
            assert re.search(r'for \d+ s more', str(raised.value))
            assert migrate.status(applied).holder is not None
        assert lease.holder(connection) is None
    migrate.apply(applied, report=quiet)


def test_a_lease_that_others_ask_for_too_is_read_again(
    applied: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = lease.execute
    failures = [errors.StoreUnavailable('1 of 2 required replicas answered')]

    def fail_once(connection: Any, statement: Any, **binds: Any) -> Any:
        if statement is lease.GET and failures:
            raise failures.pop()
        return execute(connection, statement, **binds)

    monkeypatch.setattr(lease, 'execute', fail_once)
    with (
        ddl.connected(applied) as connection,
        lease.Lease(connection),
        pytest.raises(lease.LeaseTaken, match='holds the lease'),
    ):
        migrate.apply(applied, report=quiet)
    assert failures == []


def test_a_lease_outlives_its_first_row_marker(
    applied: cfg.ConfigOpts, session: Any
) -> None:
    # The INSERT's TTL is that of the row, an UPDATE's that of the column.
    table = f'{applied.cassandra.keyspace}.schema_lock'
    with (
        ddl.connected(applied) as connection,
        lease.Lease(connection) as held,
    ):
        session.execute(
            f'UPDATE {table} USING TTL 2 SET holder = %s'
            " WHERE name = 'migration' IF EXISTS",
            (held.holder,),
        )
        held.renew()
        row = session.execute(f'SELECT TTL(holder) AS left FROM {table}').one()
        assert row.left > 2


def test_a_migrator_that_lost_its_lease_stops(
    empty: cfg.ConfigOpts, session: Any
) -> None:
    name = empty.cassandra.keyspace

    def lose(line: str) -> None:
        if 'token' in line:
            session.execute(
                f'DELETE FROM {name}.schema_lock'
                " WHERE name = 'migration' IF EXISTS"
            )

    with pytest.raises(lease.LeaseTaken, match='lost its lease'):
        migrate.apply(empty, report=lose)
    found = migrate.status(empty)
    assert list(found.applied) == [1]
    with ddl.connected(empty) as connection:
        assert 'token' not in ddl.table_names(connection)
        with pytest.raises(errors.SchemaMissing, match='schema apply'):
            schema_check.check(connection, empty.cassandra)
    assert migrate.apply(empty, report=quiet) == files.latest()
    assert migrate.verify(empty) == []


def test_a_replica_that_has_no_tables_yet_does_not_end_a_first_run(
    empty: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another migrator has just made them elsewhere."""
    execute = version.execute
    failures = [
        errors.StoreUnavailable('1 of 2 required replicas answered'),
    ]

    def fail_once(*args: Any, **binds: Any) -> Any:
        if failures:
            raise failures.pop()
        return execute(*args, **binds)

    with ddl.connected(empty) as connection:
        for text in files.migrations()[0].statements(connection.keyspace):
            ddl.alter(connection, text)
    monkeypatch.setattr(version, 'execute', fail_once)
    assert migrate.apply(empty, report=quiet) == files.latest()
    assert failures == []


def test_a_migrator_that_stopped_half_way_is_run_again(
    empty: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter = ddl.alter
    done: list[str] = []

    def crash(connection: Any, text: str) -> None:
        if 'trust_by_trustor' in text:
            raise KeyboardInterrupt
        alter(connection, text)
        done.append(text)

    monkeypatch.setattr(ddl, 'alter', crash)
    with pytest.raises(KeyboardInterrupt):
        migrate.apply(empty, report=quiet)
    monkeypatch.undo()
    assert done
    assert len(migrate.verify(empty)) == 1
    assert migrate.apply(empty, report=quiet) == files.latest()
    assert migrate.verify(empty) == []


def test_the_plan_applied_by_hand_is_enough(
    empty: cfg.ConfigOpts, session: Any
) -> None:
    plan = migrate.plan(empty)
    # Only the times of the records differ.
    offline = migrate.plan(empty, offline=True)
    assert [text[:60] for text in plan] == [text[:60] for text in offline]
    for statement in plan:
        session.execute(statement)
    assert migrate.verify(empty) == []
    assert migrate.plan(empty) == []
    with ddl.connected(empty) as connection:
        schema_check.check(connection, empty.cassandra)


def test_what_was_changed_by_hand_is_found(
    applied: cfg.ConfigOpts, session: Any
) -> None:
    name = applied.cassandra.keyspace
    session.execute(
        f'ALTER TABLE {name}.revocation WITH gc_grace_seconds = 600'
    )
    session.execute(f'ALTER TABLE {name}.trust_use DROP attempt')
    found = {
        finding.text: finding.state is State.FAIL
        for finding in migrate.verify(applied)
    }
    session.execute(
        f'ALTER TABLE {name}.revocation WITH gc_grace_seconds = 10800'
    )
    session.execute(f'ALTER TABLE {name}.trust_use ADD attempt uuid')
    assert sorted(found.values()) == [False, True]
    for text, fatal in found.items():
        wanted = 'trust_use lacks' if fatal else 'gc_grace_seconds = 600'
        assert wanted in text
    assert migrate.verify(applied) == []


def test_a_missing_table_is_found(empty: cfg.ConfigOpts, session: Any) -> None:
    quick_schema(empty)
    session.execute(f'DROP TABLE {empty.cassandra.keyspace}.trust_claim')
    (finding,) = migrate.verify(empty)
    assert finding.state is State.FAIL
    assert 'trust_claim is missing' in finding.text


def test_the_commands(
    cassandra_cluster: Cluster, make: Make, tmp_path: Path
) -> None:
    name = a_name()
    conf = make(name)
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        name,
    )
    done = run.here('schema', 'apply')
    assert done.returncode == 1
    assert 'keyspace create' in command.last_line(done)
    assert run.here('keyspace', 'create').returncode == 0
    assert run.here('schema', 'status').returncode == 1
    planned = run.here('schema', 'plan')
    dry = run.here('schema', 'apply', '--dry-run')
    for done in (planned, dry):
        assert done.returncode == 0
        assert done.stdout.count('CREATE TABLE') == len(describe.current())
    with ddl.connected(conf) as connection:
        assert ddl.table_names(connection) == set()
    assert run.here('schema', 'verify').returncode == 1
    done = run('schema', 'apply')
    assert done.returncode == 0, done.stderr
    assert f'schema version {files.latest()}' in done.stdout
    assert run.here('schema', 'verify').returncode == 0
    done = run.here('schema', 'status')
    assert done.returncode == 0
    assert f'version      {files.latest()}\n' in done.stdout
    assert run.here('schema', 'dump').stdout == describe.packaged()
    assert run.here('schema', 'plan').stdout == '-- Nothing to apply.\n'
    with (
        ddl.connected(conf) as connection,
        lease.Lease(connection),
    ):
        for words in (['schema', 'apply'], ['schema', 'apply', '--dry-run']):
            done = run.here(*words)
            assert done.returncode == 1
            assert 'holds the lease' in command.last_line(done)


def test_replicas_in_words() -> None:
    assert keyspace.in_words({'b': 1, 'a': 3}) == '3 in a, 1 in b'
