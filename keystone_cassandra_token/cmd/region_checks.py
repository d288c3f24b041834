# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor for a keyspace in several regions."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Iterator

from oslo_config import cfg

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.cmd.cluster_checks import of_each_node
from keystone_cassandra_token.db import changes, clock, errors, nodes
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.consistency import Operation, quorum
from keystone_cassandra_token.db.findings import Finding, ok, warn
from keystone_cassandra_token.schema import keyspace

#: Seconds of a pulse that is late, and of one that is early.
_LATE, _EARLY = 10.0, 2.0

#: How often the regions are made to agree, for a measurement.
_SAMPLES = 3
#: What a wait must be of one agreement: a first try, and the look for what
#: became of it, of which one may be slow.
_TIMES = 4

#: Seconds for which tables whose rows expire wait for hints.
_GRACE = 10_800
_UNITS = {'ms': 0.001, 's': 1, 'm': 60, 'h': 3600, 'd': 86_400}


def majority(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """No region alone decides whether the others can claim names."""
    name = 'majority'
    found = _replicas(connection)
    if not found:
        return
    total = sum(found.values())
    needed = [each for each in found if total - found[each] < quorum(total)]
    if needed and len(needed) < len(found):
        yield warn(
            name,
            f'Datacenter {needed[0]} has {found[needed[0]]} of {total}'
            ' replicas, and the others no majority: while it is away no name'
            ' can be claimed. Keep as many replicas in each of three'
            ' datacenters.',
        )
    elif needed:
        yield warn(
            name,
            f'{len(found)} datacenters: while one is away the rest has no'
            ' majority, and no name can be claimed. A third one mends that.',
        )
    else:
        yield ok(name, 'Any datacenter can be away, and names be claimed.')
    if len({*found.values()}) > 1:
        yield warn(
            name,
            f'The datacenters keep {keyspace.in_words(found)}: keep as many in'
            ' each.',
        )


def agreement(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """Names cost as few round trips between regions as they can."""
    name = 'paxos'
    if not _replicas(connection):
        return
    variants = set()

    def look(node: nodes.Node) -> Iterator[Finding]:
        variant = nodes.setting(connection, node, 'paxos_variant') or 'v1'
        variants.add(variant)
        if variant.startswith('v2'):
            yield ok(name, f'{node.address} uses paxos_variant {variant}.')
        else:
            yield warn(
                name,
                f'{node.address} uses paxos_variant {variant}: each new name'
                ' takes one more round trip between regions than needed. Set'
                ' paxos_variant: v2 in cassandra.yaml of all nodes.',
            )

    yield from of_each_node(connection, name, look)
    if len(variants) > 1:
        yield warn(
            name,
            f'The nodes use {", ".join(sorted(variants))}: set the same'
            ' paxos_variant on all of them.',
        )


def distances(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """How far the other regions are, from this machine."""
    found = _replicas(connection)
    seconds: dict[str, float] = {}
    for node in nodes.nodes(connection):
        name = node.datacenter
        if node.up and name in found and name != connection.local_dc:
            # The check of the clocks says which cannot be asked.
            with contextlib.suppress(*errors.DRIVER_ERRORS):
                took = nodes.round_trip(connection, node)
                seconds[name] = min(took, seconds.get(name, took))
    if seconds:
        each = (f'{name} {seconds[name]:.3f} s' for name in sorted(seconds))
        yield ok('round_trip', f'To other datacenters: {", ".join(each)}.')


def claims(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Requests wait as long as the regions take to agree."""
    name = 'claims'
    wait = conf.cassandra.claim_wait
    wide = connection.policy.is_wide(Operation.LWT_GLOBAL)
    if not wide or not _replicas(connection):
        return
    try:
        seconds = seconds_to_agree(connection)
    except errors.DRIVER_ERRORS as error:
        yield warn(
            name,
            'The regions (datacenters) do not agree, so no name can be claimed'
            f' now: {errors.ended(errors.explain(error, named=False))}',
        )
        return
    text = (
        f'The regions (datacenters) agree in {seconds:.3f} s: a new name takes'
        ' that once, a rename twice, a new role twice'
    )
    least = _TIMES * seconds
    if wait < least:
        yield warn(
            name,
            f'{text}. [cassandra] claim_wait = {wait:g} is less than'
            f' {_TIMES} times as much: what is a little slower is answered'
            f' with 503. Set it to at least {least:.1f}.',
        )
    else:
        yield ok(name, f'{text}; [cassandra] claim_wait = {wait:g}.')


def seconds_to_agree(connection: Connection) -> float:
    """Return how long it takes the regions to agree on one thing.

    As a serial read of a row that is not there does: it takes as many round
    trips as a claim.
    """
    read = connection.prepare(revocation_ttl.SETTLE).bind({'name': 'none'})
    took = []
    for _ in range(_SAMPLES):
        began = time.monotonic()
        connection.session.execute(read)
        took.append(time.monotonic() - began)
    return statistics.median(took)


def log_in(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Servers can log in to Cassandra where their region is cut off."""
    name = 'system_auth'
    found = _replicas(connection)
    if not found or not conf.cassandra.username:
        return
    own = keyspace.replicas(connection, 'system_auth') or {}
    without = sorted(each for each in found if not own.get(each))
    if without:
        yield warn(
            name,
            f'system_auth has no replica in {" and ".join(without)}: while'
            ' cut off, servers there cannot log in to Cassandra. Replicate it'
            ' by NetworkTopologyStrategy to all datacenters (ALTER KEYSPACE),'
            ' then run `nodetool repair -full system_auth` on each node.',
        )
    else:
        yield ok(name, 'system_auth has replicas in each datacenter.')


def hints(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """A node that was away is told what it missed, for three hours."""
    name = 'hints'
    if not _replicas(connection):
        return iter(())

    def look(node: nodes.Node) -> Iterator[Finding]:
        told = nodes.setting(connection, node, 'max_hint_window') or '3h'
        window = seconds_of(told)
        if window is None or window == _GRACE:
            yield ok(name, f'{node.address} keeps hints for {told}.')
        elif window < _GRACE:
            yield warn(
                name,
                f'{node.address} keeps hints for {told}: a node or region that'
                ' was away for longer must be repaired. Set max_hint_window:'
                ' 3h in cassandra.yaml.',
            )
        else:
            yield warn(
                name,
                f'{node.address} keeps hints for {told}, but those for tables'
                ' whose rows expire for three hours alone: whatever was away'
                ' for longer must be repaired.',
            )

    return of_each_node(connection, name, look)


def seconds_of(told: str) -> float | None:
    """Return the seconds of a duration as Cassandra writes it, or None."""
    found = re.fullmatch(r'(\d+)\s*(ms|s|m|h|d)', told)
    return found and int(found[1]) * _UNITS[found[2]]


def pulses(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Servers of each region run, and are heard here."""
    name = 'pulse'
    found = _replicas(connection)
    if not found:
        return
    rows = connection.session.execute(changes.PULSES.text(connection.keyspace))
    beats = {row['datacenter']: row['beat'] for row in rows}
    now = clock.to_micros(clock.utcnow())
    for datacenter in sorted(found):
        if datacenter not in beats:
            yield warn(
                name,
                f'Datacenter {datacenter} has no pulse: no server of this'
                ' version has run there, and caches elsewhere do not follow'
                ' what is changed there.',
            )
            continue
        age = (now - beats[datacenter]) / 10**6
        if age > _LATE:
            yield warn(
                name,
                f'Datacenter {datacenter} was last heard of {age:.0f} s ago:'
                ' it is cut off, no server runs there, uWSGI runs them'
                ' without enable-threads, or their clocks are behind.',
            )
        elif age < -_EARLY:
            yield warn(
                name,
                f'The pulse of datacenter {datacenter} is {-age:.0f} s ahead'
                ' of this machine: the clock of a server there is, or was'
                ' (the lines on clocks tell whose), or this one is behind.'
                ' Check the time service (chrony, ntpd).',
            )
        else:
            yield ok(name, f'Datacenter {datacenter} is heard of.')


def _replicas(connection: Connection) -> dict[str, int]:
    """Return the replicas by datacenter; none with a single datacenter."""
    found = keyspace.replicas(connection) or {}
    return found if len(found) > 1 else {}


CHECKS = (
    majority,
    agreement,
    distances,
    claims,
    log_in,
    hints,
    pulses,
)
