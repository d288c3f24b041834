# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra doctor``: what would go wrong, before it does.

Each check says one line or more; one that cannot be made says so, and the
others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import (
    access_checks,
    cache_checks,
    cluster_checks,
    local_checks,
    region_checks,
    server_checks,
)
from keystone_cassandra_token.db import connection as connections
from keystone_cassandra_token.db import errors, nodes
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, State, fail
from keystone_cassandra_token.schema import ddl

LOCAL = (
    local_checks.configuration,
    local_checks.sections,
    local_checks.driver,
    local_checks.metrics,
    local_checks.healthcheck,
)


#: The connection first, then what follows from it.
CLUSTER = (
    *cluster_checks.CHECKS,
    *region_checks.CHECKS,
    *server_checks.CHECKS,
    *cache_checks.CHECKS,
    *access_checks.CHECKS,
)


def run(conf: cfg.ConfigOpts, report: Callable[[str], None] = print) -> int:
    """Make all checks; return how many results are failures."""
    failures = 0
    for result in examine(conf):
        report(str(result))
        failures += result.state is State.FAIL
    return failures


#: What reads the keyspace: if one cannot, the others cannot either.
_KEYSPACE = {
    check.__name__
    for check in (
        cluster_checks.schema,
        cluster_checks.revocation,
        cluster_checks.windows,
        region_checks.claims,
        region_checks.pulses,
        server_checks.settings,
        server_checks.server_clocks,
        cache_checks.caches,
    )
}

#: Seconds that the doctor waits at most, where the options say more: one node
#: that hangs must not keep it for half a minute.
_TIMEOUTS = {'connect_timeout': 2.0, 'request_timeout': 2.0}


@contextlib.contextmanager
def _connected(conf: cfg.ConfigOpts) -> Iterator[Connection]:
    """Connect, and wait for nothing long."""
    options.check(conf)
    section = conf[options.GROUP]
    with contextlib.ExitStack() as stack:
        for name, most in _TIMEOUTS.items():
            value = min(section[name], most)
            stack.enter_context(_overridden(conf, name, value))
        yield stack.enter_context(ddl.connected(conf, _silent(conf)))


def _silent(conf: cfg.ConfigOpts) -> set[str]:
    """Return the contact points that are silent.

    The driver would try them one after the other.

    :raises StoreUnavailable: if all of them are.
    """
    section = conf[options.GROUP]
    points = conf.database.cassandra_node_ips
    silent = nodes.silent(
        ((point, section.port) for point in points),
        connections.ssl_context(section),
    )
    if silent.issuperset(points):
        raise errors.StoreUnavailable(
            f'{", ".join(points)}: no answer at port {section.port} in time.'
            ' The nodes hang, or a firewall drops what is sent to them.'
        )
    return silent


@contextlib.contextmanager
def _overridden(
    conf: cfg.ConfigOpts, name: str, value: object
) -> Iterator[None]:
    before = conf[options.GROUP][name]
    conf.set_override(name, value, group=options.GROUP)
    try:
        yield
    finally:
        conf.set_override(name, before, group=options.GROUP)


def examine(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Yield the results of all checks."""
    failed = set()
    for check in LOCAL:
        for result in _guarded(check, conf):
            yield result
            if result.state is State.FAIL:
                failed.add(result.name)
    if local_checks.configuration.__name__ in failed:
        yield fail(
            'connection',
            'Nothing of the cluster was checked: no server connects with these'
            ' options.',
        )
        return
    try:
        with _connected(conf) as connection:
            nodes.reach_all(connection)
            for cluster_check in CLUSTER:
                name = cluster_check.__name__
                if name in _KEYSPACE & failed:
                    continue  # it was said of another
                for result in _guarded(cluster_check, connection, conf):
                    yield result
                    if result.state is State.FAIL and name in _KEYSPACE:
                        failed |= _KEYSPACE
    except (options.ConfigurationError, cfg.Error, ValueError) as error:
        yield fail(
            'connection', f'{error} Nothing of the cluster was checked.'
        )
    except errors.StoreUnavailable as error:
        yield fail(
            'connection', f'{error.reason} Nothing of the cluster was checked.'
        )
    except errors.DRIVER_ERRORS as error:
        yield fail(
            'connection',
            f'{errors.ended(errors.explain(error))} Nothing more was checked.',
        )


def _guarded(
    check: Callable[..., Iterator[Finding]], *arguments: Any
) -> Iterator[Finding]:
    name = check.__name__
    try:
        yield from check(*arguments)
    except errors.StoreUnavailable as error:
        yield fail(name, f'could not be checked: {error.reason}')
    except errors.DRIVER_ERRORS as error:
        yield fail(
            name,
            f'could not be checked: {errors.ended(errors.explain(error))}',
        )
    except Exception as error:  # a check that breaks must not hide others
        yield fail(name, f'could not be checked: {type(error).__name__}.')
