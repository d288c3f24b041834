# SPDX-License-Identifier: Apache-2.0
"""Facts about the nodes and the driver, one node at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import cassandra
import cassandra.cluster
import cassandra.policies
import cassandra.query
from oslo_config import cfg

from keystone_cassandra_token.db import connection as connections
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.connection import Connection

_PROFILE = 'any_node'

#: Seconds for a node to answer a question about itself.
_PATIENCE = 2.0

#: Seconds for a node to say that it is there, and its first question.
PROBE = 1.5
_OPTIONS = b'\x04\x00\x00\x00\x05\x00\x00\x00\x00'

#: Seconds between two looks at what is being opened.
_MOMENT = 0.02

#: Times that a node is asked for its time; the quickest answer counts.
_SAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Driver:
    """How the Python driver is built here.

    :ivar event_loop: module of its event loop.
    :ivar missing: compiled modules that it lacks.
    """

    version: str
    event_loop: str
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of the cluster.

    :ivar version: release of Cassandra, such as ``5.0.5``; empty if it is
        not known.
    """

    address: str
    datacenter: str
    version: str
    up: bool
    host: Any = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Skew:
    """How far a node's clock is ahead of this machine's.

    :ivar seconds: negative if it is behind.
    :ivar error: the most by which this may be wrong, in seconds.
    """

    seconds: float
    error: float


def driver() -> Driver:
    """Return how the Python driver is built here."""
    return Driver(
        version=cassandra.__version__,
        event_loop=cassandra.cluster.Cluster.connection_class.__module__,
        missing=tuple(
            name
            for name in ('cassandra.row_parser', 'cassandra.cmurmur3')
            if importlib.util.find_spec(name) is None
        ),
    )


def nodes(connection: Connection) -> list[Node]:
    """Return all nodes, of all datacenters, by address."""
    return sorted(
        (
            Node(
                address=str(host.address),
                datacenter=str(host.datacenter),
                version=str(host.release_version or ''),
                up=host.is_up is not False
                and host.host_id not in connection.silent,
                host=host,
            )
            for host in connection.cluster.metadata.all_hosts()
        ),
        key=lambda node: (node.datacenter, node.address),
    )


def silent(
    endpoints: Iterable[tuple[str, int]], context: ssl.SSLContext | None
) -> set[str]:
    """Return the addresses that say nothing in time, asked side by side.

    The first question of the protocol, which needs no log-in.  Whoever refuses
    the connection is not silent.

    :param endpoints: addresses and ports.
    :param context: of TLS, if it is used.
    """
    asked = dict(endpoints)
    if not asked:
        return set()
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = pool.map(
            lambda address: _answers(address, asked[address], context), asked
        )
        return {
            address
            for address, answered in zip(asked, answers, strict=True)
            if not answered
        }


def _answers(address: str, port: int, context: ssl.SSLContext | None) -> bool:
    try:
        with socket.create_connection((address, port), PROBE) as plain:
            if context is None:
                return _is_greeted(plain)
            with context.wrap_socket(plain, server_hostname=address) as secure:
                return _is_greeted(secure)
    except TimeoutError:
        return False
    except OSError:
        return True  # the driver says what is wrong


def _is_greeted(connected: socket.socket) -> bool:
    connected.sendall(_OPTIONS)
    connected.recv(1)
    return True


def reach_all(connection: Connection) -> None:
    """Open connections to the nodes of other datacenters as well.

    A node that then does not answer, as one that hangs, counts as down: each
    question to it would wait for the same time-out.
    """
    cluster = connection.cluster
    addresses = {*connection.without} | silent(
        (
            (node.host.endpoint.address, node.host.endpoint.port)
            for node in nodes(connection)
            if node.host.is_up is not False
            and node.host.endpoint.address not in connection.without
        ),
        cluster.ssl_context,
    )
    hung = {
        host.host_id
        for host in cluster.metadata.all_hosts()
        if host.endpoint.address in addresses
    }
    connection.silent.clear()
    connection.silent.update(hung)
    _open_pools(connection)
    # Twice, since a pool may just have been replaced.
    for _ in range(2):
        connection.silent.intersection_update(hung)
        asked = [
            (
                node.host.host_id,
                connection.session.execute_async(
                    'SELECT key FROM system.local',
                    execution_profile=_PROFILE,
                    host=node.host,
                ),
            )
            for node in nodes(connection)
            if node.up
        ]
        for host_id, answer in asked:
            try:
                answer.result()
            except errors.DRIVER_ERRORS:
                connection.silent.add(host_id)
        if connection.silent == hung:
            break


def _open_pools(connection: Connection) -> None:
    """Wait for connections to all nodes that are not silent, for a while."""
    with contextlib.suppress(cassandra.OperationTimedOut):
        connection.cluster.add_execution_profile(
            _PROFILE,
            cassandra.cluster.ExecutionProfile(
                load_balancing_policy=connections.leaving_out(
                    cassandra.policies.RoundRobinPolicy(), connection.without
                ),
                retry_policy=cassandra.policies.FallthroughRetryPolicy(),
                row_factory=cassandra.query.dict_factory,
                request_timeout=_PATIENCE,
            ),
            # The driver would wait for those that are silent, too.
            pool_wait_timeout=_MOMENT,
        )
    wanted = {node.host for node in nodes(connection) if node.up}
    end = time.monotonic() + _PATIENCE
    # What is not open in time fails when it is asked.
    while time.monotonic() < end and not wanted <= {
        pool.host
        for pool in connection.session.get_pools()
        if not pool.is_shutdown
    }:
        time.sleep(_MOMENT)


def cluster_at(conf: cfg.ConfigOpts, point: str) -> tuple[str, set[str]]:
    """Return the name of the cluster at a contact point, and its nodes' ids.

    By a connection to this point alone, which is closed again.

    :raises cassandra.cluster.NoHostAvailable: if it cannot be reached.
    :raises cassandra.UnresolvableContactPoints: if it has no address.
    """
    section = conf.cassandra
    cluster = cassandra.cluster.Cluster(
        contact_points=[point],
        port=section.port,
        auth_provider=connections.auth_provider(section),
        ssl_context=connections.ssl_context(section),
        connect_timeout=section.connect_timeout,
        control_connection_timeout=section.connect_timeout,
        execution_profiles={
            cassandra.cluster.EXEC_PROFILE_DEFAULT: (
                cassandra.cluster.ExecutionProfile(
                    # No pool to any node: what the driver asks itself tells.
                    cassandra.policies.WhiteListRoundRobinPolicy([point]),
                )
            )
        },
        schema_metadata_enabled=False,
        protocol_version=section.protocol_version,
    )
    try:
        cluster.connect()
        metadata = cluster.metadata
        return str(metadata.cluster_name), {
            str(host.host_id) for host in metadata.all_hosts()
        }
    finally:
        cluster.shutdown()


def query(
    connection: Connection, node: Node, cql: str, *values: Any
) -> list[dict[str, Any]]:
    """Run a read on one node; :func:`reach_all` comes before.

    :raises cassandra.cluster.NoHostAvailable: if it cannot be reached.
    """
    return list(
        connection.session.execute(
            cql, values or None, execution_profile=_PROFILE, host=node.host
        )
    )


def skew(connection: Connection, node: Node) -> Skew:
    """Return how far a node's clock is ahead of this machine's."""
    best: Skew | None = None
    for _ in range(_SAMPLES):
        began, sent = time.monotonic(), time.time()
        row = query(
            connection,
            node,
            'SELECT toUnixTimestamp(now()) AS millis FROM system.local',
        )[0]
        took = time.monotonic() - began
        # The node read its clock at some time in between, and cut the rest
        # of a millisecond off.
        ahead = row['millis'] / 1000 + 0.0005 - (sent + took / 2)
        found = Skew(ahead, took / 2 + 0.0005)
        if best is None or found.error < best.error:
            best = found
    assert best is not None  # noqa: S101 (there is at least one sample)
    return best


def round_trip(connection: Connection, node: Node) -> float:
    """Return the seconds of a question to a node and its answer."""
    took = []
    for _ in range(_SAMPLES):
        began = time.monotonic()
        query(connection, node, 'SELECT key FROM system.local')
        took.append(time.monotonic() - began)
    return min(took)


def setting(connection: Connection, node: Node, *names: str) -> str | None:
    """Return the first of a node's settings that is set.

    None if its configuration file names none: Cassandra's default holds.

    :raises cassandra.Unauthorized: if the role may not read them.
    """
    return _first_set(names, functools.partial(query, connection, node))


def own_setting(connection: Connection, *names: str) -> str | None:
    """Return a setting of any node, as :func:`setting`."""

    def ask(cql: str, name: str) -> Iterable[dict[str, Any]]:
        # A session that opens does not wait longer for the sake of a warning.
        found = connection.session.execute(cql, [name], timeout=0.5)
        return cast('Iterable[dict[str, Any]]', found)

    return _first_set(names, ask)


def _first_set(
    names: Iterable[str], ask: Callable[..., Iterable[dict[str, Any]]]
) -> str | None:
    for name in names:
        for row in ask(
            'SELECT value FROM system_views.settings WHERE name = %s', name
        ):
            if row['value'] not in (None, '', 'null'):
                return str(row['value'])
    return None


def system_property(
    connection: Connection, node: Node, name: str
) -> str | None:
    """Return a system property of a node's Java machine, or None.

    :raises cassandra.Unauthorized: if the role may not read them.
    """
    for row in query(
        connection,
        node,
        'SELECT value FROM system_views.system_properties WHERE name = %s',
        name,
    ):
        return str(row['value']) if row['value'] is not None else None
    return None
