# SPDX-License-Identifier: Apache-2.0
"""Whether what nodes have sent each other has arrived, as the nodes say.

Each node writes a mark, as the coordinator of it, and each node is asked for
the marks of all.  What a node could not send is kept as hints, which are sent
in their order: if the mark is there, so is what the node had sent before.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import cassandra
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import (
    ConstantReconnectionPolicy,
    WhiteListRoundRobinPolicy,
)
from lab.cassandra_node import Node
from lab.regions.bed import Bed
from lab.waiting import until

from tests.regions.history import Recorder, Settled

KEYSPACE = 'histories'
_TABLE = f'{KEYSPACE}.mark'
#: Seconds.
_ANSWER, PATIENCE = 5, 300
_FAILURES = (
    cassandra.OperationTimedOut,
    cassandra.RequestExecutionException,
    NoHostAvailable,
)


class Marks:
    """A session with each node of a bed, in its region."""

    def __init__(self, bed: Bed) -> None:
        self._stack = contextlib.ExitStack()
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        for region in bed.regions:
            for node in region.nodes:
                with region.entered():
                    self._sessions[node.number] = self._connect(node)
        self._make_table(bed)

    def _connect(self, node: Node) -> Session:
        cluster = Cluster(
            [node.address],
            port=node.port,
            connect_timeout=20,
            schema_metadata_enabled=False,
            reconnection_policy=ConstantReconnectionPolicy(0.5, None),
            execution_profiles={
                EXEC_PROFILE_DEFAULT: ExecutionProfile(
                    WhiteListRoundRobinPolicy([node.address]),
                    consistency_level=cassandra.ConsistencyLevel.LOCAL_ONE,
                    request_timeout=_ANSWER,
                )
            },
        )
        self._stack.callback(cluster.shutdown)
        return cluster.connect()

    def _make_table(self, bed: Bed) -> None:
        session = next(iter(self._sessions.values()))
        each = {x.datacenter: min(3, len(x.nodes)) for x in bed.regions}
        replication = {'class': 'NetworkTopologyStrategy', **each}
        for text in (
            f'CREATE KEYSPACE IF NOT EXISTS {KEYSPACE}'
            f' WITH replication = {replication}',
            f'CREATE TABLE IF NOT EXISTS {_TABLE}'
            ' (bucket int, node int, mark bigint, PRIMARY KEY (bucket, node))',
        ):
            session.execute(text, timeout=60)
        assert bed.cluster
        for node in bed.cluster.nodes:
            # A node that is killed has it when it is started again.
            node.nodetool('flush', 'system_schema')

    def settle(self, recorder: Recorder, repaired: bool = False) -> None:
        """Wait until all that was acknowledged so far is everywhere."""
        begin = recorder.now()
        mark = next(self._numbers)
        for node in self._sessions:
            until(
                lambda node=node: (
                    self._asked(
                        node,
                        f'INSERT INTO {_TABLE} (bucket, node, mark)'
                        f' VALUES (0, {node}, {mark})',
                    )
                    is not None
                ),
                f'a write by node {node}',
                PATIENCE,
            )
        for node in self._sessions:
            until(
                lambda node=node: self._has(node, mark),
                f'what others have sent node {node}',
                PATIENCE,
            )
        recorder.add(Settled(begin, recorder.now(), repaired))

    def _has(self, node: int, mark: int) -> bool:
        rows = self._asked(node, f'SELECT * FROM {_TABLE} WHERE bucket = 0')
        found = {row.node for row in rows or () if row.mark >= mark}
        return found >= self._sessions.keys()

    def _asked(self, node: int, text: str) -> list[Any] | None:
        with contextlib.suppress(*_FAILURES):
            return list(self._sessions[node].execute(text))
        return None

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def marks(bed: Bed) -> Iterator[Marks]:
    made = Marks(bed)
    try:
        yield made
    finally:
        made.close()
