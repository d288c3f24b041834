# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor: is it the right cluster, and may servers use it?"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

from oslo_config import cfg

from keystone_cassandra_token.db import errors, nodes
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, fail, ok, warn
from keystone_cassandra_token.schema import keyspace, roles


def contact_points(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """Each contact point leads to this cluster."""
    name = 'contact_points'
    # A node that is down is one of this cluster, and was named before.
    down = {node.address for node in nodes.nodes(connection) if not node.up}
    points = [
        point
        for point in dict.fromkeys(conf.database.cassandra_node_ips)
        if point not in down
    ]
    if not points:
        return
    metadata = connection.cluster.metadata
    here = {str(host.host_id) for host in metadata.all_hosts()}
    # Side by side: each may take as long as a connection may.
    with concurrent.futures.ThreadPoolExecutor(len(points)) as pool:
        asked = [pool.submit(nodes.cluster_at, conf, x) for x in points]
    good = 0
    for point, answer in zip(points, asked, strict=True):
        try:
            cluster, ids = answer.result()
        except errors.DRIVER_ERRORS as error:
            yield warn(
                name,
                f'{point} of [database] cassandra_node_ips leads to no node:'
                f' {errors.ended(errors.explain(error, named=False))}',
            )
            continue
        if ids & here:
            good += 1
        else:
            yield fail(
                name,
                f'{point} of [database] cassandra_node_ips is a node of'
                f' another cluster, {cluster}: a server that reaches it first'
                ' does not see your data. Take it out.',
            )
    if good == len(points):
        yield ok(name, f'this cluster answers at {", ".join(points)}.')


def permissions(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """The role of the servers may do what the drivers do."""
    name = 'permissions'
    own = conf.cassandra.username
    if not own:
        yield ok(name, 'no role is used: [cassandra] username is not set.')
        return
    if keyspace.replicas(connection) is None:
        return  # the check of the replication says so
    # Who is not a server's role itself may still be able to see it.
    for role in dict.fromkeys((own, roles.server(connection.keyspace))):
        try:
            lacking = roles.lacking(connection, role)
        except roles.NoAuthorizer:
            yield ok(name, 'the nodes have no authorizer: every role may all.')
            return
        except roles.Unknown as error:
            if role == own:
                yield warn(
                    name,
                    f'the permissions of role {role} are not known: {error}.',
                )
            continue  # that of the servers may have another name
        if lacking:
            yield fail(
                name,
                f'role {role} lacks {len(lacking)} permissions of a server,'
                ' which answers 503 where it needs them. Run with cqlsh:'
                f' {roles.script(lacking, role)}',
            )
        else:
            yield ok(name, f'role {role} may do what a server does.')


CHECKS = (contact_points, permissions)
