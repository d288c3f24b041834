# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor that ask the cluster."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import re
from collections.abc import Callable, Iterator

from oslo_config import cfg

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import clock, errors, nodes, timeouts
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, fail, ok, warn
from keystone_cassandra_token.schema import (
    describe,
    keyspace,
    migrate,
    version,
)

#: Seconds of clock skew from which to warn, and to fail.  Revocations have
#: whole seconds.
SKEW_WARN = 0.5
SKEW_FAIL = 2.0

#: The oldest release with all that the drivers use.
OLDEST = (4, 1)

#: Release line -> first release without a known hole, what it is, and who is
#: concerned.
_HOLES: tuple[tuple[tuple[int, int], tuple[int, int, int], str], ...] = (
    (
        (4, 1),
        (4, 1, 2),
        'CVE-2023-30601: who may use JMX can run programs on the node through'
        ' audit logs',
    ),
    (
        (4, 1),
        (4, 1, 11),
        'CVE-2026-32588: a role can slow the node down by changing its'
        ' password over and over',
    ),
    (
        (5, 0),
        (5, 0, 7),
        'CVE-2026-32588: a role can slow the node down by changing its'
        ' password over and over',
    ),
    (
        (5, 0),
        (5, 0, 7),
        'CVE-2026-27314: with MutualTlsAuthenticator a role with CREATE can'
        ' become superuser',
    ),
)

#: Windows in which the rows of a table expire, at best: fewer keep expired
#: rows for long, more make many files.
_WINDOWS = (20, 30)
_UNITS = {'MINUTES': 60, 'HOURS': 3600, 'DAYS': 86400}

_LAST_EXPIRY = datetime.datetime(2038, 1, 19)
_ALLOW_ALL = 'AllowAllAuthenticator'


def reachable(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """All nodes are up."""
    name = 'connection'
    found = nodes.nodes(connection)
    down = [node.address for node in found if not node.up]
    if down:
        yield warn(
            name,
            f'{len(down)} of {len(found)} nodes do not answer:'
            f' {", ".join(down)}.',
        )
    else:
        yield ok(
            name,
            f'{len(found)} nodes, local datacenter {connection.local_dc}.',
        )


def schema(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """The keyspace has this package's tables."""
    name = 'schema'
    if keyspace.replicas(connection) is None:
        return  # the check of the replication says so
    differences = list(migrate.differences(connection, conf.cassandra))
    yield from differences
    if not differences:
        reached = migrate.reached(connection)
        yield ok(
            name,
            f'schema version {version.in_words(reached)}; checksums and'
            ' tables as released.',
        )


def replication(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """The consistency options keep their promise with the replication."""
    name = 'replication'
    found = keyspace.replicas(connection)
    if found is None:
        yield fail(name, keyspace.absent(connection))
        return
    findings = list(connection.policy.violations(found, connection.local_dc))
    yield from findings
    others = {node.datacenter for node in nodes.nodes(connection)}
    for datacenter in sorted(others - found.keys() - {connection.local_dc}):
        yield warn(
            name,
            f'Datacenter {datacenter} has nodes and no replica of the'
            ' keyspace: servers in that region (datacenter) answer 503.',
        )
    if not findings:
        yield ok(
            name,
            f'{keyspace.in_words(found)}; reads see what was acknowledged.',
        )


def versions(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """The nodes' releases are known to be good."""
    name = 'version'
    found = {
        node.version: _numbers(node.version)
        for node in nodes.nodes(connection)
        if node.version
    }
    if len(found) > 1:
        yield warn(
            name,
            f'the nodes run {", ".join(sorted(found))}: finish the upgrade.',
        )
    for release, numbers in sorted(found.items()):
        holes = list(holes_of(numbers))
        for hole in holes:
            yield warn(name, f'Cassandra {release}: {hole}')
        if numbers[:2] < OLDEST:
            yield fail(
                name,
                f'Cassandra {release} is too old: 4.1 or newer is needed.',
            )
        elif not holes:
            yield ok(name, f'Cassandra {release}, nothing known against it.')


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r'\d+', version)[:3])


def holes_of(numbers: tuple[int, ...]) -> Iterator[str]:
    """Yield what is known against a release, such as ``(5, 0, 5)``."""
    for line, fixed, text in _HOLES:
        if numbers[:2] == line and numbers < fixed:
            yield f'{text}. Fixed in {".".join(map(str, fixed))}.'


def clocks(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """The nodes' clocks agree with this machine's."""
    name = 'clock'
    for node in nodes.nodes(connection):
        if not node.up:
            continue
        try:
            skew = nodes.skew(connection, node)
        except errors.DRIVER_ERRORS as error:
            yield warn(
                name,
                f'{node.address} ({node.datacenter}) could not be asked:'
                f' {errors.ended(errors.explain(error, named=False))}',
            )
            continue
        text = (
            f'{node.address} ({node.datacenter}) is {skew.seconds:+.3f} s'
            f' from this machine, measured to {skew.error:.3f} s'
        )
        sure = abs(skew.seconds) - skew.error
        advice = ': check the time service (chrony, ntpd) of both.'
        if sure > SKEW_FAIL:
            yield fail(name, text + advice)
        elif sure > SKEW_WARN:
            yield warn(name, text + advice)
        else:
            yield ok(name, text + '.')


def authentication(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """Nobody can log in without a password from another machine."""
    name = 'authentication'
    for node in nodes.nodes(connection):
        if not node.up:
            continue
        try:
            found = nodes.setting(
                connection, node, 'authenticator.class_name', 'authenticator'
            )
        except errors.DRIVER_ERRORS as error:
            if conf.cassandra.username:
                yield warn(name, _unreadable(node, 'settings', error))
                continue
            found = None  # no log-in was asked of us
        authenticator = (found or _ALLOW_ALL).rsplit('.', 1)[-1]
        if authenticator != _ALLOW_ALL:
            yield ok(name, f'{node.address} uses {authenticator}.')
        elif ipaddress.ip_address(node.address).is_loopback:
            yield ok(
                name, f'{node.address} lets everybody in, on loopback only.'
            )
        else:
            yield fail(
                name,
                f'{node.address} lets everybody in ({_ALLOW_ALL}): whoever'
                ' reaches it can read and revoke. Set authenticator:'
                ' PasswordAuthenticator and authorizer: CassandraAuthorizer'
                ' in cassandra.yaml; `keystone-cassandra schema roles` prints'
                ' the roles.',
            )


def _unreadable(node: nodes.Node, what: str, error: BaseException) -> str:
    if not errors.is_refusal(error):
        return (
            f'{node.address} could not be asked:'
            f' {errors.ended(errors.explain(error, named=False))}'
        )
    return (
        f'{node.address}: its {what} cannot be read by this role; that'
        ' of `keystone-cassandra schema roles` for migrations can.'
    )


def expiry(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Rows expire when they should, also near 2038."""
    name = 'expiry'
    longest = max(revocation_ttl.needed(conf), conf.cassandra.trust_retention)
    end = clock.utcnow() + datetime.timedelta(seconds=longest)

    def look(node: nodes.Node) -> Iterator[Finding]:
        mode, policy = _expiry_settings(connection, node)
        if policy not in (None, 'REJECT'):
            yield warn(
                name,
                f'{node.address} has expiration_date_overflow_policy'
                f' {policy}: too late an expiry would be cut silently. Use'
                ' REJECT.',
            )
        if mode == 'NONE':
            yield ok(name, f'{node.address} keeps rows beyond 2038.')
        elif end >= _LAST_EXPIRY:
            yield warn(
                name,
                f'{node.address} ({mode}) keeps no row beyond 2038-01-19,'
                f' and rows of this configuration live {longest} s: set'
                ' storage_compatibility_mode: NONE on all nodes.',
            )
        else:
            yield ok(
                name,
                f'{node.address} ({mode}) keeps no row beyond 2038-01-19;'
                ' longer lives are cut there.',
            )

    return of_each_node(connection, name, look)


def _expiry_settings(
    connection: Connection, node: nodes.Node
) -> tuple[str, str | None]:
    """Return the storage mode and the policy for too late an expiry."""
    mode = 'before 5.0'
    if _numbers(node.version)[:2] >= (5, 0):
        # CASSANDRA_4 is what a node takes that is told nothing.
        mode = (
            nodes.setting(connection, node, 'storage_compatibility_mode')
            or 'CASSANDRA_4'
        )
    return mode, nodes.system_property(
        connection, node, 'cassandra.expiration_date_overflow_policy'
    )


def revocation(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """Revocations outlive the tokens of this configuration."""
    name = 'revocation'
    if keyspace.replicas(connection) is None:
        return
    needed = revocation_ttl.needed(conf)
    recorded = _revocation_ttl(connection)
    if recorded is None or recorded < needed:
        yield warn(
            name,
            f'revocations last {recorded or 0} s, tokens of this'
            f' configuration need {needed}: the first server that starts'
            ' with it raises that, or `keystone-cassandra schema apply`.',
        )
    else:
        yield ok(name, f'revocations last {recorded} s, {needed} needed.')


def _revocation_ttl(connection: Connection) -> int | None:
    found = version.settings(connection).get(revocation_ttl.EVERYWHERE)
    return None if found is None else int(found)


def patience(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """Servers do not give up before the nodes do."""
    name = 'timeouts'

    def look(node: nodes.Node) -> Iterator[Finding]:
        ask = functools.partial(nodes.setting, connection, node)
        text = timeouts.shorter(conf.cassandra, ask)
        if text is not None:
            yield warn(name, f'{node.address}: {text}')
        else:
            yield ok(name, f'{node.address} gives up first.')

    return of_each_node(connection, name, look)


def of_each_node(
    connection: Connection,
    name: str,
    look: Callable[[nodes.Node], Iterator[Finding]],
) -> Iterator[Finding]:
    """Yield what is found of each node that is up, by its settings."""
    for node in nodes.nodes(connection):
        if not node.up:
            continue
        try:
            yield from look(node)
        except errors.DRIVER_ERRORS as error:
            yield warn(name, _unreadable(node, 'settings', error))


def windows(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Tables whose rows expire have windows that fit their lives."""
    name = 'windows'
    if keyspace.replicas(connection) is None:
        return
    revocations = _revocation_ttl(connection) or revocation_ttl.needed(conf)
    lives = {
        'token': conf.token.expiration + conf.token.allow_expired_window,
        'revocation': revocations,
        'revocation_log': revocations,
    }
    tables = describe.read(connection)
    for table, life in lives.items():
        if table not in tables:
            continue  # the check of the schema says so
        seconds = window_seconds(tables[table].options)
        if seconds is None:
            yield warn(
                name,
                f'table {table} does not use TimeWindowCompactionStrategy:'
                ' expired rows stay on disk for long.',
            )
            continue
        count = life / seconds
        text = f'rows of {table} live {life} s in {count:.0f} windows'
        if _WINDOWS[0] <= count <= _WINDOWS[1]:
            yield ok(name, f'{text}.')
        else:
            minutes = max(1, round(life / 25 / 60))
            yield warn(
                name,
                f'{text}, {_WINDOWS[0]} to {_WINDOWS[1]} are good: ALTER'
                f' TABLE {connection.keyspace}."{table}" WITH compaction ='
                " {'class': 'TimeWindowCompactionStrategy',"
                " 'compaction_window_unit': 'MINUTES',"
                f" 'compaction_window_size': '{minutes}'}};",
            )


def window_seconds(table_options: dict[str, str]) -> int | None:
    """Return the compaction window of a table, None if it has none."""
    compaction = table_options.get('compaction', '')
    if 'TimeWindowCompactionStrategy' not in compaction:
        return None
    found = dict(re.findall(r"'(\w+)': '(\w+)'", compaction))
    # A day is Cassandra's own default.
    return (
        int(found.get('compaction_window_size', '1'))
        * _UNITS[found.get('compaction_window_unit', 'DAYS')]
    )


CHECKS = (
    reachable,
    versions,
    replication,
    schema,
    revocation,
    windows,
    expiry,
    authentication,
    patience,
    clocks,
)
