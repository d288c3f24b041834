# SPDX-License-Identifier: Apache-2.0
"""Two datacenters, and a server in each, while nothing gets through between.

Or more of them.  Each has one node.  What the nodes send each other goes
through forwarders that can hold it back: then each region works for itself,
and what needs both gets no answer.  Once they let go, all of it arrives, late.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import cassandra
import cassandra.cluster
import cassandra.policies
import cassandra.query
import keystone.conf
from lab.cassandra import Cluster
from lab.cassandra_node import Node
from lab.schema import quick_schema
from lab.waiting import until

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import changes, elsewhere
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Send
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.identity import shadow_users
from keystone_cassandra_token.revocation_ttl import RevocationTTL, needed
from keystone_cassandra_token.tables import removals
from tests.conftest import FORGETFUL
from tests.fault import faults
from tests.fault.generated import World, step

Statements = tuple[Statement, ...]

#: Seconds after which what was held back is no longer waited for.
PATIENCE = 120
YAML = {
    # There is no data that a node which joins would have to fetch.
    'auto_bootstrap': False,
    # What is held back arrives, or the regions never agree.
    'hinted_handoff_enabled': False,
    # Nodes drop what is older than this.
    'write_request_timeout': '60s',
    # Names of many worlds are in one partition, and made at once.
    'cas_contention_timeout': '10s',
    # How long a node may be silent: half a minute.
    'phi_convict_threshold': 14,
    # What needs both regions waits in one of these until it is let go.
    'native_transport_max_threads': 2048,
}
#: Seconds for which it may be held back.
LONGEST = 20
#: Settings of the keyspace, which are no data of worlds.
SETTINGS = 'schema_setting'


class Lost:
    """A request whose answer does not come in time."""

    def result(self) -> Any:
        raise cassandra.OperationTimedOut()


class Steps:
    """What each thread sends in a region, and where it waits.

    An interceptor of one store.

    :ivar cut_off: whether what needs both regions gets no answer.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cut_off = False
        self._calls: dict[int, Call] = {}
        self.written: set[str] = set()

    def __call__(self, statements: Statements, send: Send) -> Any:
        # What others are told of a change, once it is made, decides nothing,
        # nor does what is noted for who seeks elsewhere.
        told = statements[0] in (changes.ADD, removals.NOTE)
        writes = statements[0].verb != 'SELECT' and not told
        if writes:
            self.written.update(each.table for each in statements)
        wide = self._is_wide(statements)
        call = self._calls.get(threading.get_ident())
        if call:
            call.sends(kind_of(writes, wide), statements)
        if not (wide and self.cut_off):
            return send()
        if call:
            call.lost = True
        if writes:
            # Its coordinator has it, and goes on with it once it can.
            send()
        return Lost()

    def _is_wide(self, statements: Statements) -> bool:
        policy = self._store.sessions.get().policy
        level = policy.level(statements[0].operation)
        return any(
            name and not name.startswith('LOCAL_')
            for name in (level.consistency, level.serial)
        )

    @contextlib.contextmanager
    def watched(self, call: Call | None = None) -> Iterator[Call]:
        """Watch what this thread sends."""
        ident = threading.get_ident()
        self._calls[ident] = call = call or Call(self, lambda: None)
        try:
            yield call
        finally:
            del self._calls[ident]


#: Kinds of requests: a write on which the regions agree, one that one region
#: does by itself, something else.
AGREED, DONE_HERE, OTHER = 'agreed', 'done here', 'other'


def kind_of(writes: bool, wide: bool) -> str:
    if not writes:
        return OTHER
    return AGREED if wide else DONE_HERE


class Point(NamedTuple):
    """Where a call is interrupted.

    :ivar sent: how many requests it has sent; 0 before it begins.
    :ivar name: the next write.
    """

    sent: int
    name: str


START = Point(0, '')


class Call:
    """A call that begins before the regions are cut off, or after.

    :ivar said: what it returned; None while it has not ended.
    :ivar lost: whether one of its requests got no answer.
    """

    def __init__(
        self, steps: Steps, call: Callable[[], object], begun: int = 0
    ) -> None:
        self.said: object = None
        self.lost = False
        self._steps = steps
        self._call = call
        self._begun = begun
        self._kinds: list[str] = []
        self._sent: list[Statements] = []
        self._waits, self._go = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_begun(self) -> bool:
        return self._thread is not None

    @property
    def agreed(self) -> list[Point]:
        """Where something is agreed on, and the next write is one that one
        region does by itself."""
        writes = [
            (number, kind)
            for number, kind in enumerate(self._kinds, 1)
            if kind != OTHER
        ]
        return [
            Point(number, step(self._sent, later - 1))
            for (number, kind), (later, next_kind) in itertools.pairwise(
                writes
            )
            if (kind, next_kind) == (AGREED, DONE_HERE)
        ]

    @property
    def is_wide(self) -> bool:
        """Whether the first of its writes is one that is agreed on."""
        writes = (kind for kind in self._kinds if kind != OTHER)
        return next(writes, '') == AGREED

    def sends(self, kind: str, statements: Statements) -> None:
        """Note a request; wait before the first that is not begun before."""
        if self._begun and len(self._sent) == self._begun:
            self._waits.set()
            assert self._go.wait(faults.PATIENCE), 'it was never let go'
        self._kinds.append(kind)
        self._sent.append(statements)

    def begin(self) -> None:
        """Send the requests that are sent before."""
        if self._begun:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()
            assert self._waits.wait(faults.PATIENCE)

    def end(self) -> None:
        """Come to the end; idempotent."""
        if self._thread is not None:
            self._go.set()
            self._thread.join(faults.PATIENCE)
            assert not self._thread.is_alive()
        elif self.said is None:
            self._run()

    def _run(self) -> None:
        try:
            with self._steps.watched(self):
                self.said = self._call()
        finally:
            self._waits.set()


class Regions:
    """Two regions with a store each; what they hear of each other.

    :ivar stores: that of the first one's servers, and of the second one's.
    :ivar steps: what each sends.
    """

    def __init__(self, cluster: Cluster, stores: list[Store]) -> None:
        self._cluster = cluster
        self.stores = stores
        self.steps = [Steps(store) for store in stores]
        self._marks = 0

    @property
    def here(self) -> Store:
        return self.stores[0]

    @property
    def nodes(self) -> list[Node]:
        """Those of all, one each."""
        return list(self._cluster.nodes)

    @contextlib.contextmanager
    def intercepted(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for store, steps in zip(self.stores, self.steps, strict=True):
                stack.enter_context(faults.intercepted(store, steps))
            yield

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """As :meth:`held`; what needs both waits for an answer."""
        assert self._cluster.links
        self.settle()
        with self._cluster.links.held():
            yield

    @contextlib.contextmanager
    def deaf(self, store: Store) -> Iterator[None]:
        """Let the region of a store hear of no other until the block ends.

        The others hear each other, and of it what needs no answer.
        """
        assert self._cluster.links
        (node,) = (
            each
            for each in self.nodes
            if each.datacenter == store.sessions.get().local_dc
        )
        self.settle()
        with self._cluster.links.held(node.known_as):
            yield

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let neither region hear of the other one until the block ends."""
        with self.silent():
            for steps in self.steps:
                steps.cut_off = True
            try:
                yield
            finally:
                for steps in self.steps:
                    steps.cut_off = False

    def settle(self) -> None:
        """Wait until all that was sent has been done in both regions."""
        until(self._is_idle, 'the nodes are idle', PATIENCE)

    def _is_idle(self) -> bool:
        """Return whether the nodes have nothing to do but to say so.

        First what clients wait for, with what it sends the other node; then
        that, behind a row that was sent after it.
        """
        if not all(
            self._tasks(store, 'Native-Transport-Requests') <= 1
            for store in self.stores
        ):
            return False
        self._marks += 1
        for store in self.stores:
            session = store.sessions.get().session
            session.execute(
                cassandra.query.SimpleStatement(
                    f"UPDATE {MARKS} SET mark = '{self._marks}'"
                    " WHERE id = 'it'",
                    consistency_level=cassandra.ConsistencyLevel.ALL,
                ),
                timeout=PATIENCE,
            )
        return all(
            self._tasks(store, 'MutationStage') == 0 for store in self.stores
        )

    def _tasks(self, store: Store, pool: str) -> int:
        session = store.sessions.get().session
        (row,) = session.execute(
            'SELECT active_tasks, pending_tasks FROM system_views.thread_pools'
            f" WHERE name = '{pool}'",
            timeout=PATIENCE,
        )
        return int(sum(row.values()))

    def empty(self) -> None:
        """Empty the tables that were written."""
        self.settle()
        connection = self.here.sessions.get()
        written = set().union(*(each.written for each in self.steps))
        # What servers have read at their start.
        written.discard(SETTINGS)
        truncated = [
            connection.session.execute_async(
                f'TRUNCATE {connection.keyspace}."{table}"', timeout=PATIENCE
            )
            for table in sorted(written)
        ]
        for each in truncated:
            each.result()
        for steps in self.steps:
            steps.written.clear()


def seen_from(world: World, store: Store) -> World:
    """Return a world as servers with another store act on it."""
    other = copy.copy(world)
    other.store = store
    for name, value in vars(world).items():
        if isinstance(value, base.Driver):
            driver = copy.copy(value)
            driver.db = store
            for part, of in vars(value).items():
                if isinstance(of, RevocationTTL):
                    # That of a server which has started before, and knows
                    # nothing of what is raised later.
                    known = RevocationTTL(store)
                    known.ensure(needed(value.conf))
                    setattr(driver, part, known)
            setattr(other, name, driver)
    return other


#: Written to see that what was sent before it has arrived.
MARKS = 'marks.mark'


def start_nodes(datacenters: int = 2) -> Cluster:
    """Start a node in each of two datacenters, or of more."""
    return Cluster.start(
        nodes=datacenters,
        datacenters=datacenters,
        own=True,
        links=True,
        yaml=YAML,
        java_options=[FORGETFUL],
    )


@contextlib.contextmanager
def started(datacenters: int = 2) -> Iterator[Regions]:
    """Start regions; Keystone's configuration is of the first one."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(start_nodes(datacenters))
        conf = keystone.conf.CONF
        keystone.conf.configure()
        options.register_opts(conf)
        conf([], project='keystone', default_config_files=[])
        home = cluster.nodes[0]
        stack.enter_context(
            overridden('database', cassandra_node_ips=[home.address])
        )
        stack.enter_context(
            overridden(
                options.GROUP,
                port=cluster.port,
                keyspace=f'regions_{uuid.uuid4().hex[:8]}',
                local_dc=home.datacenter,
                request_timeout=60.0,
            )
        )
        stack.enter_context(overridden('identity', password_hash_rounds=4))
        stack.enter_context(computed_ids())
        # Opened anew, with these options.
        base.shared(conf).close()
        stack.callback(base.shared(conf).close)
        quick_schema(conf)
        make_marks(cluster)
        stores = stack.enter_context(
            elsewhere.each_datacenter(base.shared(conf))
        )
        regions = Regions(cluster, stores)
        # As the first server that issues a token; worlds need not wait for it.
        RevocationTTL(regions.here).ensure(needed(conf))
        with regions.intercepted():
            yield regions


def make_marks(cluster: Cluster) -> None:
    replication = dict.fromkeys(cluster.shape.datacenters, 1)
    keyspace, _ = MARKS.split('.')
    with cluster.connect() as session:
        session.default_timeout = PATIENCE
        session.execute(
            f'CREATE KEYSPACE {keyspace} WITH replication ='
            f' {dict({"class": "NetworkTopologyStrategy"}, **replication)}'
        )
        session.execute(
            f'CREATE TABLE {MARKS} (id text PRIMARY KEY, mark text)'
        )


@contextlib.contextmanager
def overridden(group: str, **values: Any) -> Iterator[None]:
    conf = keystone.conf.CONF
    for name, value in values.items():
        conf.set_override(name, value, group)
    try:
        yield
    finally:
        for name in values:
            conf.clear_override(name, group)


class Generator:
    """Ids are computed from what an identity provider calls a user."""

    def generate_public_ID(self, mapping: Any) -> str:  # noqa: N802
        return uuid.uuid5(uuid.NAMESPACE_OID, str(mapping)).hex


def computed_ids() -> Any:
    apis = types.SimpleNamespace(id_generator_api=Generator())
    return mock.patch.object(
        shadow_users,
        'provider_api',
        types.SimpleNamespace(ProviderAPIs=apis),
    )
