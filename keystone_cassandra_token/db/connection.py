# SPDX-License-Identifier: Apache-2.0
"""One connection to the cluster: how it is opened, and what belongs to it.

:mod:`..session` decides when there is one.
"""

from __future__ import annotations

import dataclasses
import os
import random
import ssl
import time
from collections.abc import Collection, Iterator
from typing import Any

import cassandra
import cassandra.auth
import cassandra.cluster
import cassandra.metadata
import cassandra.policies
import cassandra.query
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import deadline, errors
from keystone_cassandra_token.db.balancing import SlowLast
from keystone_cassandra_token.db.consistency import Operation, Policy
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.findings import State

#: Seconds without a connection to any node after which the session is
#: replaced.
LOST_AFTER = 3.0

#: Seconds between heartbeats on idle connections, and to answer one.
HEARTBEAT = 5
_HEARTBEAT_TIMEOUT = 3

#: Name of the profile that asks a second node, too.
SPECULATIVE = 'speculative'

#: What the nodes of one datacenter answer, at the usual levels.
_NEAR = frozenset(
    {
        Operation.TOKEN_READ,
        Operation.TOKEN_WRITE,
        Operation.REVOCATION_READ,
        Operation.REVOCATION_WRITE,
        Operation.READ,
        Operation.WRITE,
    }
)


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
    :ivar balancing: is told which nodes do not answer.
    :ivar timeout: seconds of a statement, at most.
    :ivar deadline: seconds of all statements of a request.
    :ivar without: addresses of nodes that nothing is sent to.
    :ivar silent: ids of nodes that did not answer when each was asked.
    """

    pid: int
    cluster: cassandra.cluster.Cluster
    session: cassandra.cluster.Session
    policy: Policy
    keyspace: str
    local_dc: str
    prepared: dict[Statement, Any]
    replication: dict[str, int]
    balancing: SlowLast
    timeout: float
    deadline: float
    without: Collection[str] = ()
    silent: set[Any] = dataclasses.field(default_factory=set)
    # Since when no node can be reached.
    _lost: float | None = None

    def is_lost(self) -> bool:
        """Return whether no node could be reached for some seconds.

        Asked after a failure; between two of them it may have been there.
        """
        if any(not pool.is_shutdown for pool in self.session.get_pools()):
            self._lost = None
            return False
        now = time.monotonic()
        if self._lost is None:
            self._lost = now
        return now - self._lost > LOST_AFTER

    def time_left(self, share: float = 1.0) -> float:
        """Return the seconds that a statement may take.

        :param share: of what the request under way has left.
        :raises StoreUnavailable: if it has none left.
        """
        left = deadline.remaining(self.deadline)
        if left is None:
            return self.timeout
        if left < deadline.LEAST:
            raise errors.StoreUnavailable(
                'Cassandra did not answer all statements of a request within'
                ' [cassandra] request_deadline.'
            )
        return min(self.timeout, share * left)

    def prepare(self, statement: Statement) -> Any:
        """Return the prepared statement, with its levels set."""
        found = self.prepared.get(statement)
        if found is None:
            found = self._prepared(statement.text(self.keyspace))
            level = self.policy.level(statement.operation)
            found.consistency_level = level_value(level.consistency)
            if level.serial:
                found.serial_consistency_level = level_value(level.serial)
            found.is_idempotent = statement.idempotent
            if not statement.paged:
                found.fetch_size = None
            self.prepared[statement] = found
        return found

    def _prepared(self, text: str) -> Any:
        # The driver has no other way to bound the time of a prepare().
        self.session._default_timeout = self.time_left(0.5)
        try:
            return self.session.prepare(text)
        except cassandra.OperationTimedOut as error:
            # The next node is asked now.
            self.balancing.is_slow(error.last_host)
            self.session._default_timeout = self.time_left()
            return self.session.prepare(text)


def level_value(name: str) -> int:
    """Return the driver's number of a consistency level."""
    return int(cassandra.ConsistencyLevel.name_to_value[name])


@dataclasses.dataclass(frozen=True)
class Place:
    """Where to connect to, if not where the options say.

    :ivar datacenter: the one whose nodes are asked.
    :ivar contact_points: addresses of some of them.
    :ivar single_reads: whether it is for single reads now and then, of a
        datacenter that is far away: no second node is asked meanwhile, and
        the schema is not watched.
    """

    datacenter: str
    contact_points: tuple[str, ...]
    single_reads: bool = False


def connect(
    conf: cfg.ConfigOpts,
    check_policy: bool = True,
    without: Collection[str] = (),
    place: Place | None = None,
) -> Connection:
    """Connect to the cluster that the options name.

    :param check_policy: refuse levels that cannot keep their promise with
        the keyspace's replication.
    :param without: addresses of nodes to leave out: contact points, too.
    :param place: another datacenter of that cluster.
    :raises ConfigurationError: for options that cannot work.
    :raises SchemaMissing: if the keyspace is not there.
    :raises cassandra.cluster.NoHostAvailable: if no node answers.
    """
    options.check(conf)
    section = conf.cassandra
    wanted_dc = place.datacenter if place else section.local_dc
    slow_last = balancing(wanted_dc, without)
    contact_points = conf.database.cassandra_node_ips
    single_reads = False
    if place:
        contact_points = place.contact_points
        single_reads = place.single_reads
    cluster = cassandra.cluster.Cluster(
        contact_points=[
            point for point in contact_points if point not in without
        ],
        port=section.port,
        auth_provider=auth_provider(section),
        ssl_context=ssl_context(section),
        ssl_options=None,
        connect_timeout=section.connect_timeout,
        control_connection_timeout=section.connect_timeout,
        reconnection_policy=ReconnectionPolicy(),
        execution_profiles=profiles(
            section, slow_last, speculative=not single_reads
        ),
        idle_heartbeat_interval=HEARTBEAT,
        idle_heartbeat_timeout=_HEARTBEAT_TIMEOUT,
        # It would wait for a node that hangs, with each new statement.
        prepare_on_all_hosts=False,
        # Routing to a replica needs the keyspace's replication, which the
        # driver takes from the schema; it costs one query at connect, and
        # one at each change.
        schema_metadata_enabled=not single_reads,
        protocol_version=section.protocol_version,
    )
    try:
        session = _open_session(cluster, wanted_dc)
        local_dc = _local_datacenter(cluster, wanted_dc)
        replication = replicas_by_datacenter(cluster, section.keyspace)
        policy = (
            Policy.of_single_reads(section)
            if single_reads
            else Policy(section)
        )
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
            balancing=slow_last,
            timeout=section.request_timeout,
            deadline=section.request_deadline,
            without=without,
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


def balancing(local_dc: str | None, without: Collection[str] = ()) -> SlowLast:
    """Return the policy that chooses the node of a request.

    :param local_dc: the datacenter whose nodes are asked.
    :param without: addresses of nodes that it never chooses.
    """
    local: cassandra.policies.LoadBalancingPolicy = (
        cassandra.policies.DCAwareRoundRobinPolicy(local_dc=local_dc or '')
    )
    if without:
        local = leaving_out(local, without)
    return SlowLast(cassandra.policies.TokenAwarePolicy(local))


def leaving_out(
    policy: cassandra.policies.LoadBalancingPolicy, without: Collection[str]
) -> cassandra.policies.LoadBalancingPolicy:
    """Return a policy that opens no connection to some addresses."""
    return cassandra.policies.HostFilterPolicy(
        policy, lambda host: host.endpoint.address not in without
    )


def profiles(
    section: Any, slow_last: SlowLast, speculative: bool = True
) -> dict[Any, Any]:
    def profile(**more: Any) -> cassandra.cluster.ExecutionProfile:
        return cassandra.cluster.ExecutionProfile(
            load_balancing_policy=slow_last,
            retry_policy=RetryPolicy(),
            request_timeout=section.request_timeout,
            row_factory=cassandra.query.dict_factory,
            **more,
        )

    profiles = {cassandra.cluster.EXEC_PROFILE_DEFAULT: profile()}
    if speculative and section.speculative_delay:
        profiles[SPECULATIVE] = profile(
            speculative_execution_policy=(
                cassandra.policies.ConstantSpeculativeExecutionPolicy(
                    section.speculative_delay, 1
                )
            )
        )
    return profiles


def speculates(connection: Connection, statement: Statement) -> bool:
    """Return whether what is not answered is asked of a second node too.

    What other datacenters must answer takes its time with any node.
    """
    return (
        SPECULATIVE in connection.cluster.profile_manager.profiles
        and statement.idempotent
        and statement.operation in _NEAR
        and connection.policy.level(statement.operation).consistency
        in ('LOCAL_ONE', 'LOCAL_QUORUM')
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
