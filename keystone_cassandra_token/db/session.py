# SPDX-License-Identifier: Apache-2.0
"""The connection to Cassandra: one cluster and session for each process.

Opened at the first use, never at import, and again in a child after fork,
since the driver's sockets and threads do not survive one.  A failed attempt
is remembered for a second, so that a queue of requests does not wait for the
same time-out one after the other.
"""

from __future__ import annotations

import dataclasses
import os
import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cassandra
import cassandra.auth
import cassandra.cluster
import cassandra.metadata
import cassandra.policies
import cassandra.query
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.consistency import Operation, Policy
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.findings import State
from keystone_cassandra_token.db.outage import Outage
from keystone_cassandra_token.db.threads import Turns

LOG = log.getLogger(__name__)

#: Seconds for which a failed attempt to connect answers for the next ones.
FAILURE_HOLDS = 1.0

#: What fails, in the log's view, when there is no session.
CONNECTING = 'connect'

#: Name of the profile that sends slow reads to a second node.
SPECULATIVE = 'speculative'


class RetryPolicy(cassandra.policies.RetryPolicy):
    """Send again what is idempotent, once; anything else never.

    The driver's own policy retries on the next host after a request error
    whatever the statement is, and so could apply a compare-and-set twice.
    """

    def _decide(self, query: Any, retry_num: int, decision: int) -> Any:
        if query is not None and query.is_idempotent and retry_num == 0:
            return decision, None
        return self.RETHROW, None

    def on_read_timeout(
        self,
        query: Any,
        consistency: int,
        required_responses: int,
        received_responses: int,
        data_retrieved: bool,
        retry_num: int,
    ) -> Any:
        return self._decide(query, retry_num, self.RETRY)

    def on_write_timeout(
        self,
        query: Any,
        consistency: int,
        write_type: int,
        required_responses: int,
        received_responses: int,
        retry_num: int,
    ) -> Any:
        return self._decide(query, retry_num, self.RETRY)

    def on_unavailable(
        self,
        query: Any,
        consistency: int,
        required_replicas: int,
        alive_replicas: int,
        retry_num: int,
    ) -> Any:
        # Another coordinator may see a replica that this one believes dead.
        return self._decide(query, retry_num, self.RETRY_NEXT_HOST)

    def on_request_error(
        self, query: Any, consistency: int, error: Any, retry_num: int
    ) -> Any:
        return self._decide(query, retry_num, self.RETRY_NEXT_HOST)


class ReconnectionPolicy(cassandra.policies.ReconnectionPolicy):
    """Wait 0.5 to 10 s between attempts, jittered.

    When a datacenter comes back, not all servers must connect to its nodes at
    the same moment.
    """

    def new_schedule(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.5, 1.5)
            delay = min(delay * 2, 10.0)


@dataclasses.dataclass
class Connection:
    """An open session with what belongs to it.

    :ivar replication: replicas of the keyspace by datacenter.
    """

    pid: int
    cluster: cassandra.cluster.Cluster
    session: cassandra.cluster.Session
    policy: Policy
    keyspace: str
    local_dc: str
    prepared: dict[Statement, Any]
    replication: dict[str, int]

    def prepare(self, statement: Statement) -> Any:
        """Return the prepared statement, with its levels set."""
        found = self.prepared.get(statement)
        if found is None:
            found = self.session.prepare(statement.text(self.keyspace))
            level = self.policy.level(statement.operation)
            found.consistency_level = level_value(level.consistency)
            if level.serial:
                found.serial_consistency_level = level_value(level.serial)
            found.is_idempotent = statement.idempotent
            if not statement.paged:
                found.fetch_size = None
            self.prepared[statement] = found
        return found


#: Checks a new connection, given how this server compares names.
Verify = Callable[[Connection, str], None]


class Sessions:
    """Gives the process its connection, opening it when there is none.

    :param conf: where the options are registered.
    :param verify: called with a new connection before it is used; raises
        :class:`~errors.StoreUnavailable` to refuse it.
    """

    def __init__(
        self, conf: cfg.ConfigOpts, verify: Verify | None = None
    ) -> None:
        self._conf = conf
        self._verify = verify
        self.lock = threading.Lock()
        self.current: Connection | None = None
        # Until when, and what to raise: without the exception itself, whose
        # traceback would keep a closed cluster in memory.
        self._failed: (
            tuple[float, type[errors.StoreUnavailable], str] | None
        ) = None
        self.outage = Outage()
        self.turns = Turns()
        _OPEN.add(self)

    def get(self) -> Connection:
        """Return the process's connection.

        :raises StoreUnavailable: if there is none and none can be made.
        """
        current = self.current
        if current is not None and current.pid == os.getpid():
            return current
        with self.lock:
            current = self.current
            if current is None or current.pid != os.getpid():
                current = self.current = self._open()
            return current

    def _open(self) -> Connection:
        if self._failed and time.monotonic() < self._failed[0]:
            _, kind, reason = self._failed
            raise kind(reason)
        try:
            connection = connect(self._conf)
            try:
                if self._verify is not None:
                    self._verify(
                        connection, self._conf.cassandra.name_comparison
                    )
            except BaseException:
                connection.cluster.shutdown()
                raise
        except (options.ConfigurationError, cfg.Error, ValueError) as error:
            raise self._fail(errors.StoreUnavailable(str(error))) from error
        except errors.StoreUnavailable as error:
            self._fail(error)
            raise
        except errors.DRIVER_ERRORS as error:
            raise self._fail(errors.translate(error, CONNECTING)) from error
        self._failed = None
        self.outage.ended(CONNECTING)
        return connection

    def _fail(
        self, failure: errors.StoreUnavailable
    ) -> errors.StoreUnavailable:
        self._failed = (
            time.monotonic() + FAILURE_HOLDS,
            type(failure),
            failure.reason,
        )
        self.outage.began(CONNECTING, failure.reason)
        return failure

    def forget(self) -> None:
        """Drop the connection without closing it: it is a parent's."""
        # New locks too: another thread may have held one during the fork.
        self.lock = threading.Lock()
        self.current = None
        self._failed = None
        self.outage = Outage()
        self.turns = Turns()

    def close(self) -> None:
        """Close the process's connection; the next use opens a new one."""
        with self.lock:
            current, self.current = self.current, None
            self._failed = None
        if current is not None and current.pid == os.getpid():
            current.cluster.shutdown()


_OPEN: weakref.WeakSet[Sessions] = weakref.WeakSet()


def _after_fork() -> None:
    for sessions in list(_OPEN):
        sessions.forget()


os.register_at_fork(after_in_child=_after_fork)


def level_value(name: str) -> int:
    """Return the driver's number of a consistency level."""
    return int(cassandra.ConsistencyLevel.name_to_value[name])


def connect(conf: cfg.ConfigOpts, check_policy: bool = True) -> Connection:
    """Connect to the cluster that the options name.

    :param check_policy: refuse levels that cannot keep their promise with
        the keyspace's replication.
    :raises ConfigurationError: for options that cannot work.
    :raises SchemaMissing: if the keyspace is not there.
    :raises cassandra.cluster.NoHostAvailable: if no node answers.
    """
    options.check(conf)
    section = conf.cassandra
    cluster = cassandra.cluster.Cluster(
        contact_points=conf.database.cassandra_node_ips,
        port=section.port,
        auth_provider=auth_provider(section),
        ssl_context=ssl_context(section),
        ssl_options=None,
        connect_timeout=section.connect_timeout,
        control_connection_timeout=section.connect_timeout,
        reconnection_policy=ReconnectionPolicy(),
        execution_profiles=profiles(section),
        # Routing to a replica needs the keyspace's replication, which the
        # driver takes from the schema; it costs one query at connect.
        schema_metadata_enabled=True,
        protocol_version=section.protocol_version,
    )
    try:
        session = _open_session(cluster, section.local_dc)
        local_dc = _local_datacenter(cluster, section.local_dc)
        replication = replicas_by_datacenter(cluster, section.keyspace)
        policy = Policy(section)
        if check_policy:
            _check_policy(policy, replication, local_dc)
        return Connection(
            pid=os.getpid(),
            cluster=cluster,
            session=session,
            policy=policy,
            keyspace=section.keyspace,
            local_dc=local_dc,
            prepared={},
            replication=replication or {},
        )
    except BaseException:
        cluster.shutdown()
        raise


def _open_session(
    cluster: cassandra.cluster.Cluster, local_dc: str | None
) -> cassandra.cluster.Session:
    try:
        return cluster.connect()
    except cassandra.cluster.NoHostAvailable:
        # A wrong local_dc leaves no node that may be used; by now the
        # driver knows which datacenters there are.
        if any(host.datacenter for host in cluster.metadata.all_hosts()):
            _local_datacenter(cluster, local_dc)
        raise


def auth_provider(section: Any) -> Any:
    if not section.username:
        return None
    return cassandra.auth.PlainTextAuthProvider(
        section.username, section.password
    )


def ssl_context(section: Any) -> ssl.SSLContext | None:
    if not section.tls_enabled:
        return None
    for name in ('tls_ca_file', 'tls_cert_file', 'tls_key_file'):
        path = getattr(section, name)
        if path and not os.access(path, os.R_OK):
            raise options.ConfigurationError(
                f'[cassandra] {name} = {path} cannot be read.'
            )
    try:
        context = ssl.create_default_context(cafile=section.tls_ca_file)
        if section.tls_cert_file:
            context.load_cert_chain(
                section.tls_cert_file, section.tls_key_file
            )
    except ssl.SSLError as error:
        raise options.ConfigurationError(
            '[cassandra] tls_ca_file, tls_cert_file or tls_key_file is not'
            f' usable: {error.reason or error}.'
        ) from error
    context.check_hostname = section.tls_verify_hostname
    return context


def profiles(section: Any) -> dict[Any, Any]:
    balancing = cassandra.policies.TokenAwarePolicy(
        cassandra.policies.DCAwareRoundRobinPolicy(
            local_dc=section.local_dc or ''
        )
    )

    def profile(**more: Any) -> cassandra.cluster.ExecutionProfile:
        return cassandra.cluster.ExecutionProfile(
            load_balancing_policy=balancing,
            retry_policy=RetryPolicy(),
            request_timeout=section.request_timeout,
            row_factory=cassandra.query.dict_factory,
            **more,
        )

    profiles = {cassandra.cluster.EXEC_PROFILE_DEFAULT: profile()}
    if section.speculative_delay:
        profiles[SPECULATIVE] = profile(
            speculative_execution_policy=(
                cassandra.policies.ConstantSpeculativeExecutionPolicy(
                    section.speculative_delay, 1
                )
            )
        )
    return profiles


def speculates(connection: Connection, statement: Statement) -> bool:
    """Return whether a slow answer is asked of a second node too."""
    return (
        SPECULATIVE in connection.cluster.profile_manager.profiles
        and statement.verb == 'SELECT'
        and statement.operation
        in (Operation.TOKEN_READ, Operation.REVOCATION_READ, Operation.READ)
    )


def _local_datacenter(
    cluster: cassandra.cluster.Cluster, configured: str | None
) -> str:
    names = sorted(
        {host.datacenter for host in cluster.metadata.all_hosts()} - {None}
    )
    if configured:
        if configured not in names:
            raise options.ConfigurationError(
                f'[cassandra] local_dc = {configured} is no datacenter of'
                f' this cluster: it has {", ".join(names)}.'
            )
        return configured
    if len(names) > 1:
        raise options.ConfigurationError(
            '[cassandra] local_dc is not set and the cluster has several'
            f' datacenters: set it to one of {", ".join(names)}.'
        )
    return str(names[0])


def replicas_by_datacenter(
    cluster: cassandra.cluster.Cluster, keyspace: str
) -> dict[str, int] | None:
    """Return the keyspace's replicas by datacenter.

    Empty if another strategy than NetworkTopologyStrategy places them, None
    if there is no such keyspace.
    """
    metadata = cluster.metadata.keyspaces.get(keyspace)
    if metadata is None:
        return None
    strategy = metadata.replication_strategy
    if not isinstance(strategy, cassandra.metadata.NetworkTopologyStrategy):
        return {}
    return {
        name: int(str(factor).split('/')[0])
        for name, factor in strategy.dc_replication_factors.items()
    }


def _check_policy(
    policy: Policy, replication: dict[str, int] | None, local_dc: str
) -> None:
    if replication is None:
        return  # the check of the schema says what to do
    fatal = [
        finding.text
        for finding in policy.violations(replication, local_dc)
        if finding.state is State.FAIL
    ]
    if fatal:
        raise options.ConfigurationError(' '.join(fatal))
