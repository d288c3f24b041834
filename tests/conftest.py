# SPDX-License-Identifier: Apache-2.0
"""Fixtures over a real Cassandra: one node and one keyspace for a run.

The node is started by the first test that wants it and stopped at the end.
Under pytest-xdist the controller starts it, while the workers start and
collect, and each worker makes a keyspace of its own.
KEYSTONE_CASSANDRA_CONTACT_POINTS names a cluster to use instead.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keystone.conf
import lab.start.sitecustomize  # noqa: F401
import pytest
from lab import LabError, class_archive
from lab.cassandra import CONTACT_POINTS, Cluster
from lab.cassandra_install import find_jars, find_java
from lab.schema import quick_schema
from lab.waiting import until
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import deadline
from keystone_cassandra_token.db import store as stores
from keystone_cassandra_token.drivers import base

_CLUSTER = pytest.StashKey[Cluster]()
_STARTING = pytest.StashKey['Starting']()

# Each change of a schema and each TRUNCATE would flush system tables to disk;
# this node's data is never read after its end.
FORGETFUL = '-Dcassandra.unsafesystem=true'
#: For nodes that are started again on their data: a change of the schema is
#: on disk after ``nodetool flush``, and a crash of the process loses nothing
#: else.  That of a machine would.
RESTARTED = (
    '-Dcassandra.test.flush_local_schema_changes=false',
    '-Dcassandra.skip_sync=true',
)

#: Loads most of the classes that a node needs for its work.
_A_LITTLE = (
    'CREATE KEYSPACE little WITH replication ='
    " {'class': 'NetworkTopologyStrategy', 'dc1': 1}",
    'CREATE TABLE little.kept (a text, b timeuuid, c map<text, text>,'
    ' PRIMARY KEY ((a), b)) WITH CLUSTERING ORDER BY (b DESC)',
    "INSERT INTO little.kept (a, b, c) VALUES ('a', now(), {'': ''})"
    ' IF NOT EXISTS',
    "BEGIN BATCH INSERT INTO little.kept (a, b) VALUES ('a', now())"
    ' USING TTL 60; APPLY BATCH',
    "SELECT * FROM little.kept WHERE a IN ('a', 'b')",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--long-run',
        action='store_true',
        help="let Cassandra use Java's second compiler, too: slower at first,"
        ' and faster in the end',
    )
    parser.addoption(
        '--all-pairs',
        action='store_true',
        help='let each operation meet each other one, and not a few',
    )


#: Modules that wait for nodes and servers, or try many sequences.  They are
#: begun first, the longest before the others, so that all workers end
#: together; a module is one worker's.
LONG = (
    'fault/test_three_nodes.py',
    'fault/test_no_sql.py',
    'fault/test_keystone_server.py',
    'fault/test_users.py',
    'fault/test_datacenters.py',
    'fault/test_between_regions.py',
    'fault/test_followed.py',
    'fault/test_escalation.py',
    'fault/test_regions_story.py',
    'fault/test_catalogs.py',
    'fault/test_threads.py',
    'fault/test_answers.py',
    'fault/test_hang.py',
    'fault/test_keystone_secrets.py',
    'fault/test_unified_limits.py',
    'fault/test_doctor_faults.py',
    'fault/test_fuzz.py',
    'fault/test_metrics_server.py',
    'fault/test_cut_off.py',
    'fault/test_fork.py',
    'contract/test_schema.py',
    'contract/test_schema_roles.py',
    'contract/test_reconcile.py',
    'contract/test_identity.py',
    'contract/test_resource.py',
    'contract/test_parts.py',
    'contract/test_revocation_differential.py',
    'contract/test_federation.py',
    'contract/test_tombstones.py',
    'contract/test_catalog.py',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONG)}

    def of(item: pytest.Item) -> int:
        return rank.get('/'.join(item.path.parts[-2:]), len(LONG))

    items.sort(key=of)


def _load_classes(java_options: Sequence[str]) -> None:
    """Start a node, use it a little, and stop it in order."""
    options = [FORGETFUL, *java_options]
    with Cluster.start(own=True, agent=False, java_options=options) as cluster:
        with cluster.connect() as session:
            for statement in _A_LITTLE:
                session.execute(statement)
        cluster.nodes[0].stop()


def _start(config: pytest.Config) -> Cluster:
    """Start the run's cluster."""
    class_archive.find_or_make(find_java(), find_jars(), _load_classes)
    return Cluster.start(
        java_options=[FORGETFUL],
        quick=not config.getoption('long_run'),
    )


class Starting:
    """The start of the run's cluster, beside that of the workers.

    :ivar file: tells the workers how it ended, once it has.
    """

    def __init__(self, config: pytest.Config) -> None:
        # Here: it may take long, once, and if it fails nothing is run.
        find_java()
        find_jars()
        self._folder = tempfile.TemporaryDirectory(prefix='starting-')
        self.file = Path(self._folder.name, 'cluster.json')
        thread = concurrent.futures.ThreadPoolExecutor(1)
        self._cluster = thread.submit(self._run, config)
        thread.shutdown(wait=False)

    def _run(self, config: pytest.Config) -> Cluster:
        told = {}
        try:
            cluster = _start(config)
            told['contact_points'] = cluster.contact_points_text
            return cluster
        except BaseException as error:
            told['error'] = str(error)
            raise
        finally:
            part = self.file.with_suffix('.part')
            part.write_text(json.dumps(told))
            part.replace(self.file)

    def stop(self) -> None:
        """Stop the cluster, if it has started."""
        if self._cluster.exception() is None:
            self._cluster.result().stop()
        self._folder.cleanup()


def _started(file: Path) -> Cluster:
    """Return the cluster that the controller starts.

    :raises LabError: it did not start.
    """
    until(file.exists, 'the start of Cassandra by the controller')
    told = json.loads(file.read_text())
    if 'error' in told:
        raise LabError(told['error'])
    return Cluster.external(told['contact_points'])


def _cluster(config: pytest.Config) -> Cluster:
    """Return the run's cluster, started at the first call."""
    if _CLUSTER not in config.stash:
        worker: dict[str, Any] | None = getattr(config, 'workerinput', None)
        config.stash[_CLUSTER] = (
            _start(config)
            if worker is None
            else _started(Path(worker['starting']))
        )
    return config.stash[_CLUSTER]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let an xdist worker find the node that the controller starts."""
    stash = node.config.stash
    if _STARTING not in stash:
        stash[_STARTING] = Starting(node.config)
    node.workerinput['starting'] = str(stash[_STARTING].file)


def pytest_unconfigure(config: pytest.Config) -> None:
    if starting := config.stash.get(_STARTING, None):
        starting.stop()
    cluster = config.stash.get(_CLUSTER, None)
    # A worker's is the controller's to stop.
    if cluster is not None and not hasattr(config, 'workerinput'):
        cluster.stop()


@pytest.fixture(scope='session')
def cassandra_cluster(request: pytest.FixtureRequest) -> Cluster:
    """A real cluster of one node."""
    return _cluster(request.config)


@pytest.fixture(scope='session')
def keyspace(cassandra_cluster: Cluster) -> Iterator[str]:
    """A keyspace of this run with the schema applied.

    Keystone's configuration points at it; with ``conf`` and ``store``.
    """
    yield from made_keyspace(cassandra_cluster)


def made_keyspace(
    cluster: Cluster, name_comparison: str = 'insensitive'
) -> Iterator[str]:
    """Make a keyspace with the schema.

    At the end it is dropped, unless the cluster goes then with all it has.
    """
    conf = keystone.conf.CONF
    keystone.conf.configure()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    name = f'test_{uuid.uuid4().hex[:12]}'
    point_at(conf, cluster, name, name_comparison)
    quick_schema(conf)
    with cluster.connect() as session:
        session.default_timeout = 60
        # A TRUNCATE then forgets what is in memory and writes nothing.
        session.execute(f'ALTER KEYSPACE {name} WITH durable_writes = false')
    yield name
    base.shared(conf).close()
    if CONTACT_POINTS in os.environ:
        with cluster.connect() as session:
            session.default_timeout = 60
            session.execute(f'DROP KEYSPACE IF EXISTS {name}')


@pytest.fixture
def conf(cassandra_cluster: Cluster, keyspace: str) -> cfg.ConfigOpts:
    """Keystone's configuration, pointing at the keyspace."""
    conf = keystone.conf.CONF
    point_at(conf, cassandra_cluster, keyspace)
    return conf


@pytest.fixture
def serving() -> Iterator[None]:
    """This process answers requests of clients."""
    deadline.serving.set()
    yield
    deadline.serving.clear()


@pytest.fixture
def store(conf: cfg.ConfigOpts) -> stores.Store:
    """The store that the drivers of this process share."""
    return base.shared(conf)


def point_at(
    conf: cfg.ConfigOpts,
    cluster: Cluster,
    keyspace: str,
    name_comparison: str = 'insensitive',
) -> None:
    """Let Keystone's configuration and the process's store use a keyspace."""
    for group, values in (
        ('database', {'cassandra_node_ips': cluster.contact_points}),
        (
            options.GROUP,
            {
                'port': cluster.port,
                'keyspace': keyspace,
                'name_comparison': name_comparison,
            },
        ),
    ):
        for option, value in values.items():
            conf.set_override(option, value, group=group)
    store = base.shared(conf)
    current = store.sessions.current
    if current is not None and current.keyspace != keyspace:
        store.close()
