# SPDX-License-Identifier: Apache-2.0
"""The doctor on a real node."""

from __future__ import annotations

import dataclasses
import re
import socket
import time
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cassandra
import command
import oslo_cache.core
import pytest
from lab.cassandra import Cluster
from oslo_config import cfg

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.cmd import (
    cache_checks,
    cluster_checks,
    doctor,
    region_checks,
    server_checks,
)
from keystone_cassandra_token.compat import caches
from keystone_cassandra_token.compat import settings as server_settings
from keystone_cassandra_token.db import (
    changes,
    clock,
    consistency,
    nodes,
    servers,
)
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, State
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.schema import ddl, files
from keystone_cassandra_token.schema import keyspace as keyspaces
from tests.contract import emptying


@pytest.fixture
def run(
    cassandra_cluster: Cluster, keyspace: str, tmp_path: Path
) -> command.Command:
    """The command on the run's keyspace."""
    return command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        keyspace,
        token={'provider': 'cassandra'},
    )


@pytest.fixture
def own(run: command.Command) -> cfg.ConfigOpts:
    """The options of that command, for this process."""
    return command.configuration(run.path)


@pytest.fixture
def connection(own: cfg.ConfigOpts) -> Iterator[Connection]:
    with ddl.connected(own) as connection:
        nodes.reach_all(connection)
        yield connection


def by_name(results: Iterator[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for result in results:
        found.setdefault(result.name, []).append(result)
    return found


def test_all_is_well(run: command.Command) -> None:
    done = run('doctor')
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert all(re.match(r'(ok  |warn|FAIL)  \w+: .', line) for line in lines)
    names = {line[6:].split(':')[0] for line in lines}
    assert names == {
        'configuration',
        'sections',
        'driver',
        'connection',
        'contact_points',
        'version',
        'replication',
        'schema',
        'servers',
        'revocation',
        'windows',
        'expiry',
        'authentication',
        'permissions',
        'caches',
        'timeouts',
        'clock',
    }
    assert any(line.startswith('ok    schema: ') for line in lines)
    assert 'Traceback' not in done.stderr


def test_a_keyspace_that_is_not_there(
    cassandra_cluster: Cluster, tmp_path: Path
) -> None:
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        f'schema_{uuid.uuid4().hex[:12]}',
    )
    done = run.here('doctor')
    assert done.returncode == 1
    failed = [x for x in done.stdout.splitlines() if x.startswith('FAIL')]
    (line,) = failed  # and not again by each check that needs it
    assert 'keyspace create' in line
    assert 'schema apply' in line
    # and the checks after them were made
    assert 'clock: ' in done.stdout


def test_a_misspelt_keyspace(
    cassandra_cluster: Cluster, keyspace: str, tmp_path: Path
) -> None:
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        keyspace + 'x',
    )
    for words in ('doctor',), ('schema', 'apply'), ('schema', 'status'):
        done = run.here(*words)
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert f'keyspace = {keyspace}x does not exist' in told
        assert re.search(f'which have the tables: {keyspace}[,?]', told)


def test_a_contact_point_that_leads_to_no_node(
    cassandra_cluster: Cluster, keyspace: str, tmp_path: Path
) -> None:
    run = command.for_nodes(
        tmp_path,
        [*cassandra_cluster.contact_points, '127.6.6.6', 'nowhere.invalid'],
        cassandra_cluster.port,
        keyspace,
    )
    done = run.here('doctor')
    found = [
        line
        for line in done.stdout.splitlines()
        if ' contact_points: ' in line
    ]
    assert [line[:6].strip() for line in found] == ['warn', 'warn']
    assert '127.6.6.6 of [database] cassandra_node_ips leads to' in found[0]
    assert found[0].count('127.6.6.6') == 1
    assert 'nowhere.invalid' in found[1]
    assert 'does not resolve' in found[1] or 'resolves' in found[1]
    assert not any('?.' in line for line in found)


@pytest.fixture
def newer(connection: Connection) -> Iterator[int]:
    """A version that a later release has recorded."""
    number = files.latest() + 1
    table = f'{connection.keyspace}.schema_migration'
    connection.session.execute(
        f'INSERT INTO {table} (level, name, checksum, applied_at)'
        f" VALUES ({number}, 'later', 'x', 1) IF NOT EXISTS"
    )
    yield number
    connection.session.execute(
        f'DELETE FROM {table} WHERE level = {number} IF EXISTS'
    )


def test_a_schema_of_a_newer_release(run: command.Command, newer: int) -> None:
    said = f'{newer}, of a newer release: this one needs {newer - 1}'
    for words in ('doctor',), ('schema', 'status'), ('schema', 'apply'):
        done = run.here(*words)
        assert done.returncode == 0, done.stdout
        assert said in done.stdout


def test_a_wrong_datacenter(
    cassandra_cluster: Cluster, keyspace: str, tmp_path: Path
) -> None:
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        keyspace,
        cassandra={'local_dc': 'elsewhere'},
    )
    done = run.here('doctor')
    assert done.returncode == 1
    assert 'FAIL  connection: [cassandra] local_dc = elsewhere' in done.stdout


def test_levels_that_keep_no_promise(own: cfg.ConfigOpts) -> None:
    own.set_override('read_consistency', 'LOCAL_ONE', 'cassandra')
    with ddl.connected(own) as connection:
        results = cluster_checks.replication(connection, own)
        failed = [x.text for x in results if x.state is State.FAIL]
    assert any('read_consistency is LOCAL_ONE' in text for text in failed)


def test_revocations_shorter_than_tokens(
    connection: Connection, own: cfg.ConfigOpts
) -> None:
    own.set_override('expiration', 10**7, 'token')
    (found,) = cluster_checks.revocation(connection, own)
    assert found.state is State.WARN
    assert str(revocation_ttl.needed(own)) in found.text


def test_windows_that_do_not_fit_and_the_advice(
    connection: Connection, own: cfg.ConfigOpts
) -> None:
    own.set_override('allow_expired_window', 10**6, 'token')
    first = next(cluster_checks.windows(connection, own))
    assert first.state is State.WARN
    alter = re.search(r'ALTER TABLE .*;', first.text)
    assert alter
    own.clear_override('allow_expired_window', 'token')
    before = 'ALTER TABLE {}."token" WITH compaction = {}'.format(
        connection.keyspace,
        "{'class': 'TimeWindowCompactionStrategy', "
        "'compaction_window_unit': 'HOURS', 'compaction_window_size': '2'}",
    )
    try:
        connection.session.execute(alter[0], timeout=60)
        own.set_override('allow_expired_window', 10**6, 'token')
        assert next(cluster_checks.windows(connection, own)).state is State.OK
    finally:
        connection.session.execute(before, timeout=60)


@pytest.mark.parametrize(
    ('ahead', 'state'),
    [(0, State.OK), (1.5, State.WARN), (-3, State.FAIL)],
)
def test_clocks_that_differ(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
    state: State,
) -> None:
    # This machine's clock is moved, as the doctor sees it.
    clock = types.SimpleNamespace(
        monotonic=time.monotonic, time=lambda: time.time() - ahead
    )
    monkeypatch.setattr(nodes, 'time', clock)
    for node in nodes.nodes(connection):
        found = nodes.skew(connection, node)
        assert abs(found.seconds - ahead) <= found.error + 0.1
    for result in cluster_checks.clocks(connection, own):
        assert result.state is state
        assert re.search(r'[+-]\d+\.\d{3} s from this machine', result.text)


def test_a_node_that_lets_everybody_in_from_elsewhere(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = nodes.nodes(connection)
    for result in cluster_checks.authentication(connection, own):
        assert result.state is State.OK
        assert 'loopback' in result.text
    # The same nodes, under an address that others can reach.
    monkeypatch.setattr(
        nodes,
        'nodes',
        lambda _: [
            dataclasses.replace(node, address='192.0.2.1') for node in here
        ],
    )
    for result in cluster_checks.authentication(connection, own):
        assert result.state is State.FAIL
        assert 'AllowAllAuthenticator' in result.text


def test_rows_that_would_outlive_2038(
    connection: Connection, own: cfg.ConfigOpts
) -> None:
    before = [x.state for x in cluster_checks.expiry(connection, own)]
    assert set(before) == {State.OK}
    # 20 years, as long as Cassandra takes: past 2038 from 2018 on.
    own.set_override('expiration', 20 * 365 * 86400, 'token')
    for result in cluster_checks.expiry(connection, own):
        if '(NONE)' not in result.text and 'beyond 2038' in result.text:
            assert result.state is State.WARN


def test_who_gives_up_before_the_nodes_do(
    connection: Connection, own: cfg.ConfigOpts
) -> None:
    (found,) = cluster_checks.patience(connection, own)
    assert found.state is State.OK
    own.set_override('request_timeout', 1.5, 'cassandra')
    (found,) = cluster_checks.patience(connection, own)
    assert found.state is State.WARN
    assert 'after 1.5 s' in found.text
    assert (
        'request_timeout to at least 2 and request_deadline to at'
        in found.text
    )
    own.set_override('request_timeout', 5.0, 'cassandra')
    own.set_override('request_deadline', 3.8, 'cassandra')
    (found,) = cluster_checks.patience(connection, own)
    assert found.state is State.WARN
    assert 'after 1.9 s' in found.text


def test_a_server_that_gives_up_first_says_so_when_it_connects(
    conf: cfg.ConfigOpts, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'a conditional write is given up after'
    store.close()
    store.sessions.get()
    assert text not in caplog.text
    conf.set_override('request_timeout', 1.5, 'cassandra')
    store.close()
    store.sessions.get()
    assert caplog.text.count(text) == 1


@pytest.mark.parametrize(
    ('variant', 'state'),
    [(None, State.WARN), ('v1', State.WARN), ('v2', State.OK)],
)
def test_names_that_take_more_round_trips_than_needed(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    variant: str | None,
    state: State,
) -> None:
    monkeypatch.setattr(nodes, 'setting', lambda *_: variant)
    assert list(region_checks.agreement(connection, own)) == []
    replicated(monkeypatch, dc1=1, dc2=1)
    (found,) = region_checks.agreement(connection, own)
    assert found.state is state
    assert ('Set paxos_variant: v2' in found.text) == (state is State.WARN)


@pytest.mark.parametrize(
    ('seconds', 'told'),
    [
        (0.2, 'agree in 0.200 s'),
        (0.3, 'Set it to at least 1.2.'),
        (cassandra.OperationTimedOut(), 'no name can be claimed now'),
    ],
)
def test_how_long_the_regions_take_to_agree(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | Exception,
    told: str,
) -> None:
    assert list(region_checks.claims(connection, own)) == []
    assert region_checks.seconds_to_agree(connection) > 0
    replicated(monkeypatch, dc1=1, dc2=1)
    measure = mock.Mock(side_effect=[seconds])
    monkeypatch.setattr(region_checks, 'seconds_to_agree', measure)
    (found,) = region_checks.claims(connection, own)
    assert told in found.text
    assert (found.state is State.OK) == (seconds == 0.2)
    own.set_override('global_serial_consistency', 'LOCAL_SERIAL', 'cassandra')
    policy = consistency.Policy(own.cassandra)
    alone = dataclasses.replace(connection, policy=policy)
    assert list(region_checks.claims(alone, own)) == []


def test_how_far_the_other_regions_are(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replicated(monkeypatch, dc1=1, dc2=1)
    assert list(region_checks.distances(connection, own)) == []
    here = nodes.nodes(connection)
    there = dataclasses.replace(here[0], datacenter='dc2')
    down = dataclasses.replace(there, up=False)
    monkeypatch.setattr(nodes, 'nodes', lambda _: [*here, there, down])
    (found,) = region_checks.distances(connection, own)
    assert found.state is State.OK
    assert re.search(r'dc2 \d\.\d{3} s', found.text)
    assert 'dc1' not in found.text


def replicated(
    monkeypatch: pytest.MonkeyPatch, **replicas: int
) -> dict[str, dict[str, int] | None]:
    """Let all keyspaces have replicas by datacenter; return those by name."""
    by_name: dict[str, dict[str, int] | None] = {}
    monkeypatch.setattr(
        keyspaces,
        'replicas',
        lambda _, name='': by_name.get(name, replicas),
    )
    return by_name


def test_nodes_that_agree_in_different_ways(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replicated(monkeypatch, dc1=1, dc2=1)
    (node,) = nodes.nodes(connection)
    monkeypatch.setattr(nodes, 'nodes', lambda _: [node, node])
    variants = iter(['v2', 'v1'])
    monkeypatch.setattr(nodes, 'setting', lambda *_: next(variants))
    *_, found = region_checks.agreement(connection, own)
    assert found.state is State.WARN
    assert 'v1, v2' in found.text


@pytest.mark.parametrize(
    ('replicas', 'told'),
    [
        ({'dc1': 3}, []),
        ({'dc1': 3, 'dc2': 3, 'dc3': 3}, ['Any datacenter can be away']),
        ({'dc1': 3, 'dc2': 3}, ['2 datacenters']),
        ({'dc1': 3, 'dc2': 2, 'dc3': 1}, ['dc1 has 3 of 6', '3 in dc1']),
        ({'dc1': 2, 'dc2': 1, 'dc3': 1}, ['dc1 has 2 of 4', '2 in dc1']),
        (
            {'dc1': 1, 'dc2': 3, 'dc3': 1},
            ['dc2 has 3 of 5', '1 in dc1, 3 in dc2, 1 in dc3'],
        ),
        ({'dc1': 2, 'dc2': 1}, ['dc1 has 2 of 3', '2 in dc1, 1 in dc2']),
        ({'dc1': 1, 'dc2': 1, 'dc3': 1}, ['Any datacenter can be away']),
    ],
)
def test_a_region_that_decides_alone(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    replicas: dict[str, int],
    told: list[str],
) -> None:
    replicated(monkeypatch, **replicas)
    found = list(region_checks.majority(connection, own))
    assert len(found) == len(told)
    for each, text in zip(found, told, strict=True):
        assert text in each.text
        assert (each.state is State.OK) == text.startswith('Any')


@pytest.mark.parametrize(
    ('own_replicas', 'without'),
    [
        ({'dc1': 3, 'dc2': 3}, None),
        ({'dc1': 3}, 'dc2'),
        ({}, 'dc1 and dc2'),
        (None, 'dc1 and dc2'),
    ],
)
def test_a_region_whose_servers_cannot_log_in_by_themselves(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    own_replicas: dict[str, int] | None,
    without: str | None,
) -> None:
    by_name = replicated(monkeypatch, dc1=3, dc2=3)
    by_name['system_auth'] = own_replicas
    assert list(region_checks.log_in(connection, own)) == []
    own.set_override('username', 'keystone', 'cassandra')
    (found,) = region_checks.log_in(connection, own)
    if without is None:
        assert found.state is State.OK
    else:
        assert found.state is State.WARN
        assert f'no replica in {without}:' in found.text


@pytest.mark.parametrize(
    ('window', 'told'),
    [
        (None, 'keeps hints for 3h.'),
        ('10800000ms', 'keeps hints for 10800000ms.'),
        ('90m', 'Set max_hint_window: 3h'),
        ('1d', 'for three hours alone'),
    ],
)
def test_how_long_hints_are_kept(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    window: str | None,
    told: str,
) -> None:
    assert list(region_checks.hints(connection, own)) == []
    replicated(monkeypatch, dc1=3, dc2=3)
    monkeypatch.setattr(nodes, 'setting', lambda *_: window)
    (found,) = region_checks.hints(connection, own)
    assert told in found.text
    assert (found.state is State.OK) == told.startswith('keeps')


@pytest.mark.parametrize(
    ('ago', 'told'),
    [
        (None, 'has no pulse'),
        (0, 'is heard of'),
        (60, 'was last heard of 60 s ago'),
        (-60, 'is 60 s ahead'),
    ],
)
def test_when_a_region_was_heard_of(
    connection: Connection,
    own: cfg.ConfigOpts,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    ago: int | None,
    told: str,
) -> None:
    assert list(region_checks.pulses(connection, own)) == []
    elsewhere = uuid.uuid4().hex
    now = clock.utcnow()
    monkeypatch.setattr(clock, 'utcnow', lambda: now)
    for datacenter, late in (('dc1', 0), (elsewhere, ago)):
        if late is not None:
            beat = clock.to_micros(now) - late * 10**6
            store.run(changes.BEAT, datacenter=datacenter, beat=beat)
    replicated(monkeypatch, **{'dc1': 3, elsewhere: 3})
    found = {each.text: each for each in region_checks.pulses(connection, own)}
    (text,) = (each for each in found if elsewhere in each)
    assert told in text
    assert (found[text].state is State.OK) == (ago == 0)
    # The random name of the other one may have "dc1" in it.
    (here,) = (each for each in found if 'Datacenter dc1 ' in each)
    assert found[here].state is State.OK


@pytest.mark.parametrize(
    ('setting', 'state'),
    [
        (None, State.OK),
        ('[token] expiration', State.WARN),
        ('[cassandra] token_key', State.FAIL),
    ],
)
def test_servers_that_differ_are_named(
    connection: Connection,
    own: cfg.ConfigOpts,
    store: Store,
    setting: str | None,
    state: State,
) -> None:
    here = server_settings.common(own)
    for host, value in ('alpha', {}), ('beta', {setting: 'other'}):
        server = {
            'datacenter': 'dc1',
            'host': host,
            'settings': here | (value if setting else {}),
        }
        store.run(servers.TELL, ttl=60, **servers.SERVER.dump(server))
    found = list(server_checks.settings(connection, own))
    assert {each.state for each in found} == {state}
    if setting:
        assert setting in found[0].text
        assert 'other on beta (dc1)' in found[0].text


@pytest.mark.parametrize(
    ('ahead', 'provider', 'state'),
    [
        (0.0, 'cassandra', State.OK),
        (5.0, 'cassandra', State.WARN),
        (-5.0, 'fernet', State.FAIL),
        (60.0, 'cassandra', State.FAIL),
        (-60.0, 'cassandra', State.FAIL),
    ],
)
def test_a_server_whose_clock_is_off(
    connection: Connection,
    own: cfg.ConfigOpts,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
    provider: str,
    state: State,
) -> None:
    own.set_override('provider', provider, 'token')
    cluster = store.sessions.get().cluster
    host = uuid.uuid4().hex
    monkeypatch.setattr(socket, 'gethostname', lambda: host)
    # As the driver makes them where the machine's clock is off.
    right = cluster.timestamp_generator
    monkeypatch.setattr(
        cluster,
        'timestamp_generator',
        lambda: right() + int(ahead * 10**6),
    )
    servers.tell(store, server_settings.common(own))
    found = server_checks.server_clocks(connection, own)
    (told,) = (each for each in found if host in each.text)
    assert (told.name, told.state) == ('clock', state)
    measured = re.search(r'is ([+-]\d+\.\d) s from the nodes', told.text)
    assert measured
    assert abs(float(measured[1]) - ahead) <= servers.ERROR
    assert ('chrony' in told.text) == (state is not State.OK)


REGIONS = {'dc1': 3, 'dc2': 3}
SHARED = {
    ('cache', 'backend'): 'dogpile.cache.memcached',
    ('cache', 'memcache_servers'): ['10.0.0.1:11211'],
}
LOCAL = SHARED | {('cache', 'memcache_servers'): ['localhost:11211']}
MEMORY = {('cache', 'backend'): 'dogpile.cache.memory'}
UNFOLLOWED = {('cassandra', 'follow_changes'): False}


@pytest.mark.parametrize(
    ('replicas', 'options', 'hosts', 'told'),
    [
        ({}, {}, [], 'nothing beyond a request.'),
        ({}, SHARED, ['a', 'b'], 'backend = dogpile.cache.memcached.'),
        ({}, LOCAL, ['a'], 'backend = dogpile.cache.memcached.'),
        ({}, LOCAL, ['a', 'b'], 'servers of this region run on a, b'),
        ({}, MEMORY, [], 'in the memory of each process'),
        ({}, MEMORY | {('cache', 'enabled'): False}, [], 'beyond a request.'),
        (REGIONS, {}, [], 'nothing beyond a request.'),
        (REGIONS, SHARED, ['a', 'b'], 'is dropped from it (follow_changes)'),
        (REGIONS, UNFOLLOWED, [], '(not beyond a request), and a revocation'),
        (REGIONS, SHARED | UNFOLLOWED, [], '[unified_limit] for 600 s'),
        (
            REGIONS,
            SHARED | {('identity', 'driver'): 'ldap'},
            [],
            '[identity] driver = ldap: regions do not tell',
        ),
        (
            REGIONS,
            SHARED | {('token', 'cache_time'): 14401},
            [],
            '[token] for 14401 s: regions follow for 14400 s',
        ),
    ],
)
def test_what_caches_remember_too_long(
    connection: Connection,
    own: cfg.ConfigOpts,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    replicas: dict[str, int],
    options: dict[tuple[str, str], Any],
    hosts: list[str],
    told: str,
) -> None:
    emptying.truncate(store, connection.keyspace, 'server')
    for host in hosts:
        server = {'datacenter': 'dc1', 'host': host, 'settings': {}}
        store.run(servers.TELL, ttl=60, **servers.SERVER.dump(server))
    if replicas:
        replicated(monkeypatch, **replicas)
    oslo_cache.core.configure(own)
    own.set_override('enabled', True, 'cache')
    for section in caches.SECTIONS.values():
        own.set_override('driver', 'cassandra', section)
    for (section, option), value in options.items():
        own.set_override(option, value, section)
    (found,) = cache_checks.caches(connection, own)
    assert found.name == 'caches'
    assert told in found.text
    is_fine = told.endswith(('.', '(follow_changes)'))
    assert (found.state is State.OK) == is_fine


def test_a_node_of_an_old_release(
    connection: Connection,
    own: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = nodes.nodes(connection)
    monkeypatch.setattr(
        nodes,
        'nodes',
        lambda _: [
            *here,
            dataclasses.replace(here[0], version='4.0.20'),
        ],
    )
    found = by_name(cluster_checks.versions(connection, own))['version']
    assert any('finish the upgrade' in result.text for result in found)
    assert any(
        result.state is State.FAIL and '4.0.20' in result.text
        for result in found
    )


def test_the_doctor_writes_nothing(
    connection: Connection, own: cfg.ConfigOpts, store: Any
) -> None:
    def settings() -> list[Any]:
        return list(
            connection.session.execute(
                f'SELECT name, value, WRITETIME(value) FROM'
                f' {connection.keyspace}.schema_setting'
            )
        )

    before = settings()
    own.set_override('expiration', 10**7, 'token')
    doctor.run(own, report=lambda line: None)
    assert settings() == before
