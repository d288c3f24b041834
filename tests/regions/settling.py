# SPDX-License-Identifier: Apache-2.0
"""Whether what nodes have sent each other has arrived, as the nodes say.

Each node leaves marks, as the coordinator of them, also just before a fault
ends, and each node is asked for the marks of all.  What a node could not send
is kept as hints, which are sent in their order: if the mark is there, so is
what the node had tried to send before.  And no node has hints left.
"""

from __future__ import annotations

import contextlib
import itertools
import time
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
_TABLE = f'{KEYSPACE}.left_mark'
_HINTS = 'SELECT * FROM system_views.pending_hints'
#: Seconds.
_ANSWER, _SOON, PATIENCE = 5, 2, 300
_FAILURES = (
    cassandra.OperationTimedOut,
    cassandra.RequestExecutionException,
    NoHostAvailable,
)


def _insert(node: int, mark: int) -> str:
    return (
        f'INSERT INTO {_TABLE} (bucket, node, mark) VALUES (0, {node}, {mark})'
    )


class Marks:
    """A session with each node of a bed, in its region."""

    def __init__(self, bed: Bed) -> None:
        self._stack = contextlib.ExitStack()
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(time.time_ns())
        #: Marks that must arrive, by node.
        self._left: set[tuple[int, int]] = set()
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
            ' (bucket int, node int, mark bigint,'
            ' PRIMARY KEY (bucket, node, mark))',
        ):
            session.execute(text, timeout=60)
        assert bed.cluster
        for node in bed.cluster.nodes:
            # A node that is killed has it when it is started again.
            node.nodetool('flush', 'system_schema')

    def leave(self) -> None:
        """Let each node that can leave a mark."""
        mark = next(self._numbers)
        sent = {
            node: session.execute_async(_insert(node, mark), timeout=_SOON)
            for node, session in self._sessions.items()
        }
        for node, each in sent.items():
            with contextlib.suppress(*_FAILURES):
                each.result()
                self._left.add((node, mark))

    def forget(self) -> None:
        """Expect no marks of before: a node was lost with what it had."""
        self._left.clear()

    def settle(self, recorder: Recorder, repaired: bool = False) -> None:
        """Wait until all that was acknowledged so far is everywhere."""
        begin = recorder.now()
        mark = next(self._numbers)
        for node in self._sessions:
            until(
                lambda node=node: (
                    self._asked(node, _insert(node, mark)) is not None
                ),
                f'a write by node {node}',
                PATIENCE,
            )
            self._left.add((node, mark))
        for node in self._sessions:
            until(
                lambda node=node: self._has_all(node),
                f'what others have sent node {node}',
                PATIENCE,
            )
        for node in self._sessions:
            until(
                lambda node=node: self._asked(node, _HINTS) == [],
                f'the hints of node {node} to be sent',
                PATIENCE,
            )
        self._left.clear()
        recorder.add(Settled(begin, recorder.now(), repaired))

    def _has_all(self, node: int) -> bool:
        text = f'SELECT node, mark FROM {_TABLE} WHERE bucket = 0'
        rows = self._asked(node, text)
        return {(row.node, row.mark) for row in rows or ()} >= self._left

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
