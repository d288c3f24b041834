# SPDX-License-Identifier: Apache-2.0
"""Several migrators at once, and migrators that die, on three nodes."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import cassandra.cluster
import command
import pytest
from lab.cassandra import Cluster

from keystone_cassandra_token import errors
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    lease,
    migrate,
)
from keystone_cassandra_token.session import Connection

#: Seconds after which something has gone wrong.
PATIENCE = 240


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with Cluster.start(nodes=3, own=True) as cluster:
        yield cluster


Run = Callable[[int], command.Command]


@pytest.fixture
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The command by the number of the node that it contacts first.

    All on one keyspace, which is there and has no tables.
    """
    name = f'migrators_{uuid.uuid4().hex[:12]}'

    def on_node(number: int) -> command.Command:
        return command.for_nodes(
            tmp_path_factory.mktemp('conf'),
            [cluster.nodes[number].address],
            cluster.port,
            name,
        )

    migrate.create_keyspace(
        command.configuration(on_node(0).path), report=lambda line: None
    )
    return on_node


def test_first_runs_at_once_converge(runs: Run) -> None:
    commands = [runs(number) for number in range(3)]
    processes = [run.start('schema', 'apply') for run in commands]
    try:
        outputs = [
            process.communicate(timeout=PATIENCE) for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert 0 in codes, outputs
    for code, (_, complaint) in zip(codes, outputs, strict=True):
        assert code == 0 or 'Another migrator is at work' in complaint
    # Each node has the same tables, under the same ids.
    found = []
    for run in commands:
        conf = command.configuration(run.path)
        assert migrate.apply(conf, report=lambda line: None) == files.latest()
        assert migrate.verify(conf) == []
        assert migrate.dump(conf) == describe.packaged()
        with ddl.connected(conf) as connection:
            rows = connection.session.execute(
                'SELECT table_name, id FROM system_schema.tables'
                ' WHERE keyspace_name = %s',
                (connection.keyspace,),
            )
            found.append({row['table_name']: row['id'] for row in rows})
    assert found[0] == found[1] == found[2]


def test_a_killed_migrator_leaves_a_lease_that_ends(runs: Run) -> None:
    first, second = runs(0), runs(1)
    process = first.start('schema', 'apply')
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if 'revocation' in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.communicate()
    done = second('schema', 'apply')
    assert done.returncode == 1
    assert f':{process.pid} holds the lease' in command.last_line(done)
    status = second('schema', 'status')
    assert status.returncode == 1
    deadline = time.monotonic() + PATIENCE
    while done.returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(2)
        done = second('schema', 'apply')
    conf = command.configuration(second.path)
    assert migrate.verify(conf) == []


def test_nodes_that_disagree_stop_the_migrator(
    runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl, 'AGREEMENT_TIMEOUT', 3.0)
    conf = command.configuration(runs(0).path)
    migrate.apply(conf, report=lambda line: None)
    text = files.migrations()[0].statements(conf.cassandra.keyspace)[0]
    with ddl.connected(conf) as connection:
        # The control connection's node says that its schema is another.
        node = connection.cluster.get_control_connection_host()
        own = on_host(
            connection, node, 'SELECT schema_version FROM system.local'
        ).one()['schema_version']
        setting = (
            "UPDATE system.local SET schema_version = {} WHERE key = 'local'"
        )
        on_host(connection, node, setting.format(uuid.uuid4()))
        try:
            with pytest.raises(migrate.MigrationError, match='do not agree'):
                ddl.alter(connection, text)
        finally:
            on_host(connection, node, setting.format(own))
        ddl.alter(connection, text)


def on_host(connection: Connection, host: Any, text: str) -> Any:
    """Run a statement on one node, once the driver is connected to it.

    On a busy machine nodes take each other for dead, and the driver hears.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return connection.session.execute(text, host=host)
        except cassandra.cluster.NoHostAvailable:
            assert time.monotonic() < deadline
            time.sleep(1)


def test_a_node_that_hangs_stops_the_migrator_or_not_at_all(
    cluster: Cluster, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl, 'AGREEMENT_TIMEOUT', 3.0)
    monkeypatch.setattr(ddl, 'STATEMENT_TIMEOUT', 10.0)
    conf = command.configuration(runs(0).path)
    paused = cluster.nodes[2]
    lines = []

    def pause(line: str) -> None:
        lines.append(line)
        if 'token' in line:
            paused.pause()

    try:
        # In one line that the command prints, never with a half-made record.
        with pytest.raises(
            (migrate.MigrationError, lease.LeaseTaken, errors.StoreUnavailable)
        ):
            migrate.apply(conf, report=pause)
    finally:
        paused.resume()
    assert any('token' in line for line in lines)
    recorded = migrate.status(conf).applied
    assert len(recorded) < files.latest()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            migrate.apply(conf, report=lambda line: None)
            break
        except (
            migrate.MigrationError,
            lease.LeaseTaken,
            errors.StoreUnavailable,
        ):
            assert time.monotonic() < deadline
            time.sleep(2)
    assert migrate.verify(conf) == []
    assert recorded.items() <= migrate.status(conf).applied.items()
