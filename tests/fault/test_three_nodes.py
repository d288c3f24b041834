# SPDX-License-Identifier: Apache-2.0
"""What needs three nodes.

Migrators at once or dying, a race for a name, and nodes that hang: their
connections stay open, and nothing answers.
"""

from __future__ import annotations

import dataclasses
import secrets
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cassandra.cluster
import cassandra.policies
import cassandra.query
import command
import keystone.conf
import pytest
from keystone import exception
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.load import CHANGE, GIFT, LOG_IN, VALIDATION, Load, Sender
from lab.schema import quick_schema
from lab.server import ALL_DRIVERS, Keystone, merge, points_at
from lab.waiting import until
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.connection import Connection, level_value
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity.users import USERS
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    lease,
    migrate,
    parse,
)
from tests.conftest import FORGETFUL, point_at
from tests.fault import at_once, faults
from tests.fault.keystone_servers import login_status

#: Seconds after which something has gone wrong.
PATIENCE = 600
CREATORS = 16
#: Made by migrators; all other tables are there before, made at once.  A
#: change of the schema on which three nodes agree takes one of them a second.
LEFT = parse.tables(
    text
    for migration in files.migrations()[:4]
    for text in migration.statements('any')
)

_PASSWORD = secrets.token_urlsafe(16)
_LOAD = (LOG_IN, VALIDATION, CHANGE, GIFT)
#: Seconds: a request ends so soon that nothing else can have ended it.
_DEADLINE = 3
_NEVER = 60

Run = Callable[[int], command.Command]

#: How a migrator ends that could not do all.
_UNFINISHED = (
    migrate.MigrationError,
    lease.LeaseTaken,
    errors.StoreUnavailable,
)


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with Cluster.start(
        nodes=3,
        own=True,
        # There is no data that a node which joins would have to fetch.
        yaml={'auto_bootstrap': False},
        java_options=[FORGETFUL],
    ) as cluster:
        yield cluster


@pytest.fixture(scope='module')
def make_runs(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Run]:
    """A function that makes a keyspace without tables.

    It returns the command by the number of the node that it contacts first.
    """

    def make() -> Run:
        name = f'three_{uuid.uuid4().hex[:12]}'

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

    return make


@pytest.fixture(scope='module')
def killed(make_runs: Callable[[], Run]) -> tuple[Run, int]:
    """Commands for a keyspace whose migrator was killed, and its pid.

    The keyspace was empty; its lease is waited for while other tests run.
    """
    runs = make_runs()
    process = runs(0).start('schema', 'apply')
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
    return runs, process.pid


def test_a_killed_migrator_leaves_a_lease(killed: tuple[Run, int]) -> None:
    runs, pid = killed
    other = runs(1)
    done = other('schema', 'apply')
    assert done.returncode == 1
    assert f':{pid} holds the lease' in command.last_line(done)
    assert other('schema', 'status').returncode == 1


@dataclasses.dataclass
class FirstRuns:
    """Three migrators that began at once, and came to their end.

    None of them found the table of the lease, or any record.
    """

    commands: list[command.Command]
    codes: list[int]
    outputs: list[tuple[str, str]]

    @property
    def keyspace(self) -> str:
        conf = command.configuration(self.commands[0].path)
        return str(conf.cassandra.keyspace)


@pytest.fixture(scope='module')
def first_runs(make_runs: Callable[[], Run]) -> FirstRuns:
    runs = make_runs()
    commands = [runs(number) for number in range(3)]
    quick_schema(command.configuration(commands[0].path), without=LEFT)
    processes = [run.start('schema', 'apply') for run in commands]
    try:
        outputs = [
            process.communicate(timeout=PATIENCE) for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    return FirstRuns(commands, codes, outputs)


def test_first_runs_at_once_converge(first_runs: FirstRuns) -> None:
    assert 0 in first_runs.codes, first_runs.outputs
    for code, (_, complaint) in zip(
        first_runs.codes, first_runs.outputs, strict=True
    ):
        assert code == 0 or 'Another migrator is at work' in complaint
    # Each node has the same tables, under the same ids.
    found = []
    for run in first_runs.commands:
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


@pytest.fixture
def driver(
    cluster: Cluster,
    first_runs: FirstRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[identity.Identity]:
    """Users in the keyspace that the first runs made: three replicas."""
    conf = keystone.conf.CONF
    keystone.conf.configure()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    base.shared(conf).close()
    point_at(conf, cluster, first_runs.keyspace)
    migrate.apply(conf, report=lambda line: None)  # what is missing yet
    yield identity.Identity()
    base.shared(conf).close()


def create(start: Any, results: Any, domain_id: str, nodes: list[str]) -> None:
    """Create a user of a wanted name; say its id, None if it is taken.

    And which node was asked for the name.  After a 503 it tries again, as a
    client does: that has left nothing which is in its own way.
    """
    driver = identity.Identity()
    claims = []

    def note(statements: Any, send: faults.Send) -> Any:
        sent = send()
        if USERS.claims.insert in statements:
            claims.append(sent)
        return sent

    user_id = None
    with faults.intercepted(driver.db, note):
        connection = driver.db.sessions.get()
        number = start.wait(60)
        ask(connection, nodes[number % len(nodes)])
        while True:
            made = {
                'id': uuid.uuid4().hex,
                'name': 'wanted',
                'domain_id': domain_id,
                'enabled': True,
            }
            try:
                driver.create_user(made['id'], made)
                user_id = made['id']
            except exception.Conflict:
                pass
            except errors.StoreUnavailable:
                continue
            break
    asked = {sent.coordinator_host for sent in claims} - {None}
    results.put((user_id, {node.address for node in asked}))


def ask(connection: Connection, node: str) -> None:
    """Let one node coordinate all that a connection asks from now on.

    By itself the driver asks the first replica, and that is one for all.
    """
    only = cassandra.policies.WhiteListRoundRobinPolicy([node])
    only.populate(connection.cluster, connection.cluster.metadata.all_hosts())
    for profile in connection.cluster.profile_manager.profiles.values():
        profile.load_balancing_policy = only


def test_sixteen_processes_and_one_name(
    cluster: Cluster, driver: identity.Identity
) -> None:
    connection = driver.db.sessions.get()
    assert connection.replication == {'dc1': 3}
    for _ in range(3):
        domain_id = uuid.uuid4().hex
        said = at_once.run(
            create, (domain_id, cluster.contact_points), CREATORS
        )
        (winner,) = [user_id for user_id, _ in said if user_id is not None]
        asked = set().union(*(nodes for _, nodes in said))
        assert asked == set(cluster.contact_points)
        # All that the losers wrote is gone, from every replica.
        for table, column in (
            ('user', 'id'),
            ('user_by_domain', 'id'),
            ('user_claim', 'owner'),
        ):
            found = {
                row[column]
                for row in everywhere(connection, table)
                if row['domain_id'] in (domain_id, None)
            }
            assert found == {winner}, table
        assert driver.get_user_by_name('wanted', domain_id)['id'] == winner


def everywhere(connection: Connection, table: str) -> list[dict[str, Any]]:
    """Return a table's rows as all replicas together have them."""
    read = cassandra.query.SimpleStatement(
        f'SELECT * FROM {connection.keyspace}."{table}"',
        consistency_level=level_value('ALL'),
    )
    return list(connection.session.execute(read))


def test_nodes_that_disagree_stop_the_migrator(
    first_runs: FirstRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl, 'AGREEMENT_TIMEOUT', 3.0)
    conf = command.configuration(first_runs.commands[0].path)
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

    def answered() -> list[Any]:
        try:
            return [connection.session.execute(text, host=host)]
        except cassandra.cluster.NoHostAvailable:
            return []

    return until(answered, f'a connection to {host}', PATIENCE)[0]


@pytest.fixture(scope='module')
def bootstrapped(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The directory of a Keystone that was bootstrapped."""
    directory = tmp_path_factory.mktemp('hang')
    keystone = _keystone(cluster, directory)
    quick_schema(command.configuration(keystone.configuration), {'dc1': 3})
    keystone.bootstrap(_PASSWORD)
    keystone.stop()
    return directory


def _keystone(
    cluster: Cluster, directory: Path, **cassandra: object
) -> Keystone:
    return Keystone(
        directory,
        merge(
            ALL_DRIVERS,
            points_at(cluster, 'keystone'),
            {
                'cassandra': cassandra,
                'identity': {'password_hash_rounds': 4},
                'token': {'caching': False},
            },
        ),
        sql=False,
    )


def test_one_of_three_is_not_missed(
    cluster: Cluster, bootstrapped: Path
) -> None:
    keystone = _keystone(cluster, bootstrapped)
    hung = cluster.nodes[1]
    with keystone:
        keystone.start()
        with Load(keystone, _PASSWORD, _LOAD) as load:
            load.during('before', 20)
            hung.pause()
            try:
                load.during('hung', 50)
                # Else the driver's lines are no more than counted.
                assert load.refused() == []
                # The driver knows by now, and goes on knowing.
                until(
                    lambda: 'Heartbeat failed' in keystone.log(),
                    'a heartbeat that fails',
                )
                load.during('down', 20)
            finally:
                hung.resume()
            load.during('after', 20)
        assert load.refused() == []


def test_a_request_ends_whatever_hangs(
    cluster: Cluster, bootstrapped: Path
) -> None:
    """All other ends are far away."""
    keystone = _keystone(
        cluster,
        bootstrapped,
        request_deadline=_DEADLINE,
        request_timeout=_NEVER,
        connect_timeout=_NEVER,
    )
    with keystone:
        keystone.start()
        client = Client(keystone.url, keystone.workers)
        token = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE).auth_token
        sender = Sender(keystone.url, token, _PASSWORD, timeout=_NEVER / 2)
        for node in cluster.nodes:
            node.pause()
        try:
            for act in sender.log_in, sender.validate, sender.change:
                (answer,) = act()
                assert answer.status_code == 503
                assert answer.headers['Retry-After']
        finally:
            for node in cluster.nodes:
                node.resume()
        until(
            lambda: login_status(client, _PASSWORD) == 201,
            'a log-in',
            PATIENCE,
        )
        client.close()


@pytest.fixture(scope='module')
def freed(killed: tuple[Run, int]) -> cfg.ConfigOpts:
    """That keyspace, once the lease has ended by itself.

    Others than the migrators have made the tables that they do not make here.
    """
    runs, _ = killed
    conf = command.configuration(runs(1).path)
    quick_schema(conf, without=LEFT)

    def ended() -> bool:
        try:
            return migrate.status(conf).holder is None
        except errors.StoreUnavailable:
            return False

    until(ended, 'the end of the lease', PATIENCE)
    return conf


def test_a_node_that_hangs_stops_the_migrator_or_not_at_all(
    cluster: Cluster, freed: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl, 'AGREEMENT_TIMEOUT', 3.0)
    monkeypatch.setattr(ddl, 'STATEMENT_TIMEOUT', 10.0)
    paused = cluster.nodes[2]
    lines = []

    def pause(line: str) -> None:
        lines.append(line)
        paused.pause()

    try:
        migrate.apply(freed, report=pause)
        # The driver took it for dead in time, as one that is.
        finished = True
    except _UNFINISHED:
        # In one line that the command prints, never with a half-made record.
        finished = False
    finally:
        paused.resume()
    assert lines
    # What the killed one had finished is skipped.
    assert not any('token' in line for line in lines)
    recorded = migrate.status(freed).applied
    assert (len(recorded) == files.latest()) == finished

    def applied() -> bool:
        try:
            migrate.apply(freed, report=lambda line: None)
        except _UNFINISHED:
            return False
        return True

    until(applied, 'the nodes to agree', PATIENCE)

    def is_as_released() -> bool:
        found = migrate.verify(freed)
        # The node that hung may be the one that is asked.
        assert found == [] or 'do not agree' in found[0].text
        return found == []

    until(is_as_released, 'the tables of the node that hung', PATIENCE)
    assert recorded.items() <= migrate.status(freed).applied.items()
