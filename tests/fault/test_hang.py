# SPDX-License-Identifier: Apache-2.0
"""A node that hangs: what each guard of the session does by itself.

The keyspace has one replica, so one node alone answers for a key; a test lets
the other one, which hangs, be asked first.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
import pytest
from lab.cassandra import Cluster
from lab.schema import quick_schema
from lab.waiting import until
from prometheus_client import multiprocess

from keystone_cassandra_token.db import (
    balancing,
    cql,
    deadline,
    errors,
    metrics,
)
from keystone_cassandra_token.db import connection as connections
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store
from tests.conftest import FORGETFUL

_KEYSPACE = 'hanging'
#: Seconds that nothing here takes: another end than the one that is tested.
_NEVER = 600

VALUE = Row('value')
READ = cql.read('SELECT value FROM schema_setting WHERE name = :name')
WRITE = cql.write(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
)
CREATE = cql.lwt_local(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
    ' IF NOT EXISTS'
)
SETTLE = cql.lwt_local_read(
    'SELECT value FROM schema_setting WHERE name = :name'
)


@pytest.fixture(scope='module')
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Two nodes with a keyspace."""
    with Cluster.start(
        nodes=2,
        own=True,
        yaml={'auto_bootstrap': False},
        java_options=[FORGETFUL],
    ) as cluster:
        run = _command(cluster, tmp_path_factory.mktemp('conf'))
        quick_schema(command.configuration(run.path), {'dc1': 1})
        yield cluster


def _command(
    cluster: Cluster, folder: Path, **options: object
) -> command.Command:
    return command.for_nodes(
        folder,
        cluster.contact_points,
        cluster.port,
        _KEYSPACE,
        cassandra=options,
    )


@dataclasses.dataclass
class Scene:
    """A store, connected to a node that answers and to one that hangs."""

    store: Store
    live: Any
    hung: Any

    @property
    def connection(self) -> Connection:
        return self.store.sessions.get()

    def key(self) -> str:
        """Return a key of which the live node has the replica."""
        metadata = self.connection.cluster.metadata
        while True:
            key = uuid.uuid4().hex
            if metadata.get_replicas(_KEYSPACE, key.encode()) == [self.live]:
                return key

    def ask_hung_first(self) -> None:
        self.connection.balancing.is_slow(self.live)

    def is_avoided(self, host: Any) -> bool:
        """Return whether a node is asked after the other one.

        Of which it forgets whether it was avoided.
        """
        (other,) = {self.live, self.hung} - {host}
        policy = self.connection.balancing
        policy.answered(other, [other])
        # By turns, if none is avoided.
        return all(
            list(policy.make_query_plan())[-1] == host for _ in range(4)
        )

    def read(self) -> None:
        assert self.store.one(READ, VALUE, name=self.key()) is None


Make = Callable[..., Scene]


@pytest.fixture
def make(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """A function that makes a scene; its arguments are options.

    Of what this package decides for a while, it decides for ever, and the
    driver hears no heartbeat that fails.
    """
    monkeypatch.setattr(balancing, 'AVOIDED', _NEVER)
    monkeypatch.setattr(connections, 'HEARTBEAT', _NEVER)
    made: list[Store] = []

    def make(**options: object) -> Scene:
        path = _command(cluster, tmp_path, **options).path
        store = Store(command.configuration(path))
        made.append(store)
        connection = store.sessions.get()
        for statement in READ, WRITE, CREATE, SETTLE:
            connection.prepare(statement)
        # Both, before one hangs.
        until(
            lambda: len(list(connection.session.get_pools())) == 2,
            'connections to both nodes',
        )
        hosts = {
            host.address: host
            for host in connection.cluster.metadata.all_hosts()
        }
        live, hung = (hosts[node.address] for node in cluster.nodes)
        cluster.nodes[1].pause()
        return Scene(store, live, hung)

    try:
        yield make
    finally:
        for node in cluster.nodes:
            node.resume()
        for store in made:
            store.close()


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Callable[[metrics.Metric], float]]:
    """A function that returns what was counted of a metric."""
    folder = tmp_path / 'metrics'
    folder.mkdir()
    metrics.start(str(folder))

    def total(metric: metrics.Metric) -> float:
        metrics.current.flush()
        files = [str(path) for path in folder.glob('counter_*.db')]
        return sum(
            sample.value
            for family in multiprocess.MultiProcessCollector.merge(files)
            for sample in family.samples
            if sample.name == metric.full_name
        )

    yield total
    metrics.start(None)


def test_a_second_node_is_asked_as_well(make: Make, counted) -> None:
    scene = make(speculative_delay=0.1, request_timeout=10)
    scene.ask_hung_first()
    scene.read()
    assert counted(metrics.SPECULATIVE_WINS) == 1
    # From now on it is asked last, and nothing is sent twice.
    for _ in range(4):
        scene.read()
    assert counted(metrics.SPECULATIVE_WINS) == 1
    assert counted(metrics.RETRIES) == 0
    assert scene.is_avoided(scene.hung)


def test_what_is_not_answered_is_sent_to_the_next_node(
    make: Make, counted
) -> None:
    scene = make(speculative_delay=0, request_timeout=1)
    scene.ask_hung_first()
    scene.read()
    assert counted(metrics.RETRIES) == 1
    for _ in range(4):
        scene.read()
    assert counted(metrics.RETRIES) == 1
    scene.ask_hung_first()
    scene.connection.balancing.answered(scene.hung, [scene.hung])
    scene.store.run(WRITE, name=scene.key(), value='x')
    assert counted(metrics.RETRIES) == 2
    assert counted(metrics.SPECULATIVE_WINS) == 0
    assert scene.is_avoided(scene.hung)


def test_a_statement_is_prepared_on_the_next_node(make: Make) -> None:
    scene = make(request_timeout=1)
    # The driver begins with each node in turn.
    for name in 'abcd':
        statement = cql.read(f'SELECT value AS {name} FROM schema_setting')
        scene.connection.prepare(statement)
    assert scene.is_avoided(scene.hung)


def test_a_conditional_write_is_never_sent_twice(make: Make, counted) -> None:
    scene = make(request_timeout=1)
    scene.ask_hung_first()
    with pytest.raises(errors.OutcomeUnknown):
        scene.store.cas(CREATE, name=scene.key(), value='x')
    assert counted(metrics.RETRIES) == 0
    assert scene.is_avoided(scene.hung)


def test_a_conditional_write_that_was_not_done_is_done_elsewhere(
    make: Make,
) -> None:
    scene = make(request_timeout=10)
    scene.ask_hung_first()
    key = scene.key()
    # Of one deadline it leaves enough to look, and to write again.
    with deadline.within(8):
        outcome = scene.store.cas_settled(
            CREATE,
            settle=SETTLE,
            applied=lambda row: None if row is None else row['value'] == 'x',
            name=key,
            value='x',
        )
    assert outcome
    assert scene.store.one(READ, VALUE, name=key) == {'value': 'x'}


def test_a_request_has_one_end_whatever_hangs(
    make: Make, cluster: Cluster
) -> None:
    scene = make(speculative_delay=0, request_timeout=10)
    key = scene.key()
    cluster.nodes[0].pause()
    with deadline.within(2):
        with pytest.raises(errors.StoreUnavailable):
            scene.store.one(READ, VALUE, name=key)
        with pytest.raises(errors.StoreUnavailable) as caught:
            scene.store.one(READ, VALUE, name=key)
    assert '[cassandra] request_deadline' in caught.value.reason
    # Who was asked second is noted as well.
    assert scene.is_avoided(scene.hung)


def test_the_driver_hears_of_it_soon(make: Make, monkeypatch) -> None:
    """By its own settings it would take a minute, or half of one."""
    monkeypatch.undo()
    scene = make()
    until(lambda: scene.hung.is_up is False, 'a heartbeat that fails', 25)
    for _ in range(4):
        scene.read()
