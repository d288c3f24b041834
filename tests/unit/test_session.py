# SPDX-License-Identifier: Apache-2.0
"""The session: retries, options, failures, forks."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading

import cassandra.policies
import pytest
from cassandra import ConsistencyLevel, InvalidRequest, WriteType, protocol
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster
from cassandra.metadata import (
    KeyspaceMetadata,
    NetworkTopologyStrategy,
    SimpleStrategy,
)
from cassandra.query import BatchStatement, SimpleStatement

from keystone_cassandra_token.conf import ConfigurationError
from keystone_cassandra_token.db import connection as connections
from keystone_cassandra_token.db import deadline, errors, session

NONE, RETRY, NEXT = (
    connections.RetryPolicy.RETHROW,
    connections.RetryPolicy.RETRY,
    connections.RetryPolicy.RETRY_NEXT_HOST,
)
LEVEL = ConsistencyLevel.LOCAL_QUORUM

CALLBACKS = {
    'read timeout': (
        lambda query, tried: connections.RetryPolicy().on_read_timeout(
            query, LEVEL, 2, 2, False, tried
        ),
        RETRY,
    ),
    **{
        f'write timeout {name}': (
            lambda query, tried, kind=kind: (
                connections.RetryPolicy().on_write_timeout(
                    query, LEVEL, kind, 2, 1, tried
                )
            ),
            RETRY,
        )
        for name, kind in WriteType.name_to_value.items()
    },
    'unavailable': (
        lambda query, tried: connections.RetryPolicy().on_unavailable(
            query, LEVEL, 2, 1, tried
        ),
        NEXT,
    ),
    'request error': (
        lambda query, tried: connections.RetryPolicy().on_request_error(
            query, LEVEL, protocol.ServerError(0, '', None), tried
        ),
        NEXT,
    ),
}


def batch(idempotent: bool) -> BatchStatement:
    found = BatchStatement()
    found.is_idempotent = idempotent
    return found


@pytest.mark.parametrize('callback', CALLBACKS)
@pytest.mark.parametrize('tried', [0, 1, 5])
@pytest.mark.parametrize(
    'query', [SimpleStatement('x', is_idempotent=False), batch(False), None]
)
def test_what_is_not_idempotent_is_never_sent_twice(
    callback, tried, query
) -> None:
    decide, _ = CALLBACKS[callback]
    assert decide(query, tried) == (NONE, None)


@pytest.mark.parametrize('callback', CALLBACKS)
@pytest.mark.parametrize(
    'query', [SimpleStatement('x', is_idempotent=True), batch(True)]
)
def test_what_is_idempotent_is_sent_twice_at_most(callback, query) -> None:
    decide, decision = CALLBACKS[callback]
    assert decide(query, 0) == (decision, None)
    assert decide(query, 1) == (NONE, None)


def test_all_decisions_of_the_driver_are_overridden() -> None:
    theirs = {
        name
        for name in vars(cassandra.policies.RetryPolicy)
        if name.startswith('on_')
    }
    assert len(theirs) == 4
    assert theirs <= vars(connections.RetryPolicy).keys()


def test_reconnection_waits_longer_and_longer_up_to_a_bound() -> None:
    for _ in range(50):
        schedule = itertools.islice(
            connections.ReconnectionPolicy().new_schedule(), 20
        )
        centre = 0.5
        for delay in schedule:
            assert centre * 0.5 <= delay <= centre * 1.5
            centre = min(centre * 2, 10.0)


def test_reconnection_is_jittered() -> None:
    firsts = {
        next(connections.ReconnectionPolicy().new_schedule())
        for _ in range(20)
    }
    assert len(firsts) > 10


def test_profiles(make_conf) -> None:
    section = make_conf(
        request_timeout=2.5, local_dc='dc2', speculative_delay=0
    ).cassandra
    slow_last = connections.balancing(section.local_dc)
    profiles = connections.profiles(section, slow_last)
    assert profiles.keys() == {EXEC_PROFILE_DEFAULT}
    profile = profiles[EXEC_PROFILE_DEFAULT]
    assert profile.request_timeout == 2.5
    assert isinstance(profile.retry_policy, connections.RetryPolicy)
    assert profile.load_balancing_policy is slow_last
    balancing = slow_last._child_policy
    assert isinstance(balancing, cassandra.policies.TokenAwarePolicy)
    local = balancing._child_policy
    assert local.local_dc == 'dc2'
    assert local.used_hosts_per_remote_dc == 0
    rows = profile.row_factory(['a', 'b'], [(1, 2)])
    assert rows == [{'a': 1, 'b': 2}]


def test_what_is_slow_is_doubled(make_conf) -> None:
    section = make_conf(speculative_delay=0.2).cassandra
    profiles = connections.profiles(
        section, connections.balancing(section.local_dc)
    )
    assert profiles.keys() == {EXEC_PROFILE_DEFAULT, connections.SPECULATIVE}
    for name, plans in (
        (EXEC_PROFILE_DEFAULT, 0),
        (connections.SPECULATIVE, 1),
    ):
        plan = profiles[name].speculative_execution_policy.new_plan(None, None)
        delays = [plan.next_execution(None) for _ in range(2)]
        assert [delay for delay in delays if delay > 0] == [0.2] * plans
    policies = [profile.retry_policy for profile in profiles.values()]
    assert all(isinstance(p, connections.RetryPolicy) for p in policies)


def test_no_name_no_authentication(make_conf) -> None:
    assert connections.auth_provider(make_conf().cassandra) is None
    provider = connections.auth_provider(
        make_conf(username='k', password='hidden').cassandra
    )
    assert (provider.username, provider.password) == ('k', 'hidden')


def test_no_tls_unless_enabled(make_conf) -> None:
    section = make_conf(tls_ca_file='/nowhere').cassandra
    assert connections.ssl_context(section) is None


@pytest.mark.parametrize('verify', [True, False])
def test_a_certificate_is_always_asked_for(make_conf, verify) -> None:
    context = connections.ssl_context(
        make_conf(tls_enabled=True, tls_verify_hostname=verify).cassandra
    )
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname is verify


@pytest.mark.parametrize(
    'name', ['tls_ca_file', 'tls_cert_file', 'tls_key_file']
)
def test_a_file_that_cannot_be_read_names_its_option(make_conf, name) -> None:
    section = make_conf(tls_enabled=True, **{name: '/nowhere/x.pem'}).cassandra
    with pytest.raises(ConfigurationError) as caught:
        connections.ssl_context(section)
    assert f'[cassandra] {name} = /nowhere/x.pem' in str(caught.value)


@pytest.mark.parametrize(
    'names', [['tls_ca_file'], ['tls_cert_file', 'tls_key_file']]
)
def test_a_file_that_is_no_pem_names_its_option(
    make_conf, tmp_path, names
) -> None:
    path = tmp_path / 'x.pem'
    path.write_text('not a certificate, but private')
    values = dict.fromkeys(names, str(path))
    section = make_conf(tls_enabled=True, **values).cassandra
    with pytest.raises(ConfigurationError) as caught:
        connections.ssl_context(section)
    for name in names:
        assert name in str(caught.value)
    assert 'private' not in str(caught.value)


@pytest.fixture
def cluster():
    made = Cluster(['127.0.0.1'])
    yield made
    made.shutdown()


@pytest.mark.parametrize(
    ('strategy', 'expected'),
    [
        (
            NetworkTopologyStrategy({'dc1': '3', 'dc2': '5'}),
            {'dc1': 3, 'dc2': 5},
        ),
        (SimpleStrategy({'replication_factor': '3'}), {}),
    ],
)
def test_replicas_by_datacenter(cluster, strategy, expected) -> None:
    keyspace = KeyspaceMetadata('k', True, 'SimpleStrategy', {})
    keyspace.replication_strategy = strategy
    cluster.metadata.keyspaces['k'] = keyspace
    assert connections.replicas_by_datacenter(cluster, 'k') == expected
    assert connections.replicas_by_datacenter(cluster, 'other') is None


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect one entry for each attempt to connect."""
    made: list[int] = []
    connect = session.connect

    def counted(*arguments, **more):
        made.append(1)
        return connect(*arguments, **more)

    monkeypatch.setattr(session, 'connect', counted)
    return made


@pytest.fixture
def free_port() -> int:
    """A port of the loopback address on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(('127.0.0.1', 0))
        return int(bound.getsockname()[1])


def test_without_contact_points_the_option_is_named(conf) -> None:
    with pytest.raises(errors.StoreUnavailable) as caught:
        session.Sessions(conf).get()
    assert '[database] cassandra_node_ips' in caught.value.reason


def test_nobody_listening_names_the_options(make_conf, free_port) -> None:
    conf = make_conf(['127.0.0.1'], port=free_port)
    before = threading.active_count()
    with pytest.raises(errors.StoreUnavailable) as caught:
        session.Sessions(conf).get()
    assert '[database] cassandra_node_ips' in caught.value.reason
    assert '[cassandra] port' in caught.value.reason
    # Nothing of the attempt stays: no reconnecting behind our back.  One
    # event loop for all clusters of a process does.
    left = [t for t in threading.enumerate() if 'event_loop' not in t.name]
    assert len(left) <= before


def test_a_failure_is_remembered(conf, attempts) -> None:
    sessions = session.Sessions(conf)
    reasons = set()
    for _ in range(5):
        with pytest.raises(errors.StoreUnavailable) as caught:
            sessions.get()
        reasons.add(caught.value.reason)
    assert len(attempts) == 1
    assert len(reasons) == 1


def test_a_failure_is_forgotten_after_a_while(
    conf, attempts, monkeypatch
) -> None:
    monkeypatch.setattr(session, 'FAILURE_HOLDS', 0.0)
    sessions = session.Sessions(conf)
    for _ in range(3):
        with pytest.raises(errors.StoreUnavailable):
            sessions.get()
    assert len(attempts) == 3


def test_closing_forgets_a_failure(conf, attempts) -> None:
    sessions = session.Sessions(conf)
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable):
            sessions.get()
        sessions.close()
    assert len(attempts) == 2


def test_threads_wait_for_one_attempt(conf, monkeypatch) -> None:
    made = []
    held = threading.Event()

    def connect(conf, place):
        made.append(1)
        held.wait(10)
        raise ConfigurationError('no')

    monkeypatch.setattr(session, 'connect', connect)
    monkeypatch.setattr(session, 'FAILURE_HOLDS', 3600.0)
    sessions = session.Sessions(conf)
    refused = []

    def use() -> None:
        try:
            sessions.get()
        except errors.StoreUnavailable as failure:
            refused.append(failure.reason)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert refused == ['no'] * 8


def test_a_request_does_not_wait_longer_than_it_may(conf, monkeypatch) -> None:
    """An attempt to connect goes on, for the next request."""
    held = threading.Event()

    def connect(conf, place):
        held.wait(60)
        raise ConfigurationError('no')

    monkeypatch.setattr(session, 'connect', connect)
    sessions = session.Sessions(conf)
    try:
        with deadline.within(0.1), pytest.raises(errors.StoreUnavailable) as e:
            sessions.get()
        assert '[cassandra] request_deadline' in e.value.reason
    finally:
        held.set()


def test_a_server_has_no_more_time_where_no_request_is_known(
    make_conf, monkeypatch
) -> None:
    """As in Keystone's middleware; a command waits for the attempt."""
    held = threading.Event()

    def connect(conf, place):
        held.wait(60)
        raise ConfigurationError('no')

    monkeypatch.setattr(session, 'connect', connect)
    # What other tests of this process have done does not count.
    monkeypatch.setattr(deadline, 'serving', threading.Event())
    monkeypatch.setattr(deadline, 'SERVED', 'no.such.module')
    sessions = session.Sessions(make_conf(request_deadline=0.5))
    told = []

    def use() -> None:
        with pytest.raises(errors.StoreUnavailable) as refused:
            sessions.get()
        told.append(refused.value.reason)

    command = threading.Thread(target=use)
    try:
        command.start()
        command.join(1.0)
        monkeypatch.setattr(deadline, 'SERVED', __name__)
        use()
        assert command.is_alive()
    finally:
        held.set()
        command.join()
    (server, other) = told
    assert '[cassandra] request_deadline' in server
    assert other == 'no'


@pytest.mark.parametrize(
    ('raised', 'kind'),
    [
        (errors.SchemaMissing('apply it'), errors.SchemaMissing),
        (ConfigurationError('set it'), errors.StoreUnavailable),
        (ValueError('set it'), errors.StoreUnavailable),
        (OSError('away'), errors.StoreUnavailable),
        (RuntimeError('interpreter shutdown'), errors.StoreUnavailable),
        (
            InvalidRequest('table t does not exist'),
            errors.SchemaMissing,
        ),
    ],
)
def test_each_failure_keeps_its_kind(conf, monkeypatch, raised, kind) -> None:
    def connect(conf, place):
        raise raised

    monkeypatch.setattr(session, 'connect', connect)
    sessions = session.Sessions(conf)
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable) as caught:
            sessions.get()
        assert type(caught.value) is kind
        assert caught.value.__cause__ is not caught.value


def test_a_connection_that_is_refused_is_closed(
    conf, monkeypatch, cluster
) -> None:
    opened = connections.Connection(
        os.getpid(), cluster, None, None, 'k', 'dc1', {}, {}, None, 5.0, 5.0
    )
    monkeypatch.setattr(session, 'connect', lambda conf, place: opened)

    def verify(connection, section):
        assert connection is opened
        assert section is conf.cassandra
        raise errors.SchemaMissing('apply it')

    with pytest.raises(errors.SchemaMissing):
        session.Sessions(conf, verify=verify).get()
    assert cluster.is_shutdown


def run(script: str) -> str:
    """Run a script in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORK = """
    import os, sys, threading
    from oslo_config import cfg
    from keystone_cassandra_token import conf as options
    from keystone_cassandra_token.db import errors, session
    from keystone_cassandra_token.db.connection import Connection

    conf = cfg.ConfigOpts()
    options.register_opts(conf)
    conf([], default_config_files=[])
    sessions = session.Sessions(conf)
    mine = Connection(
        os.getpid(), None, None, None, 'k', 'dc1', {}, {}, None, 5.0, 5.0)
    sessions.current = mine
    assert sessions.get() is mine
    sessions.outage.began('read', 'of the parent')
    locks = [sessions.lock, sessions.outage.lock]

    def code_of_a_child():
        child = os.fork()
        if child == 0:
            import faulthandler
            faulthandler.dump_traceback_later(120, exit=True)
            if sessions.current is not None:
                os._exit(2)
            try:
                sessions.get()
            except errors.StoreUnavailable as failure:
                own = 'cassandra_node_ips' in failure.reason
                os._exit(0 if own and 'read' not in sessions.outage.kinds
                         else 3)
            os._exit(4)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    free = code_of_a_child()
    # As another thread's at the moment of the fork.
    for lock in locks:
        lock.acquire()
    held = code_of_a_child()
    assert sessions.get() is mine
    print(f'{free=} {held=}')
"""


def test_a_child_forgets_its_parents_connection() -> None:
    assert run(FORK) == 'free=0 held=0'


#: Drivers are made where nothing but imports came before.
QUIET = """
    import importlib, os, pkgutil, threading
    import keystone_cassandra_token as package

    names = [
        module.name
        for module in pkgutil.walk_packages(
            package.__path__, package.__name__ + '.')
        if module.name != package.__name__ + '.wsgi'  # which is a server
    ]
    for name in names:
        importlib.import_module(name)
    assert len(names) > 15, names
    assert threading.active_count() == 1, threading.enumerate()
    opened = []
    for number in os.listdir('/proc/self/fd'):
        try:
            opened.append(os.readlink(f'/proc/self/fd/{number}'))
        except FileNotFoundError:
            pass
    assert not any(name.startswith('socket:') for name in opened), opened
    import keystone.conf
    from oslo_config import cfg
    CONF = keystone.conf.CONF
    for group in 'cassandra', 'database':
        assert group not in CONF
        assert group not in cfg.CONF
    import gc
    from keystone_cassandra_token.db import session, store
    made = (session.Sessions, store.Store)
    assert not any(isinstance(each, made) for each in gc.get_objects())
    print('imported')

    from keystone_cassandra_token.drivers import trust
    from keystone_cassandra_token.drivers.token import provider, revoke

    keystone.conf.configure()
    CONF([], project='keystone', default_config_files=[])
    drivers = [revoke.Revoke(), provider.Provider(), trust.Trust()]
    assert threading.active_count() == 1, threading.enumerate()
    assert len({driver.db for driver in drivers}) == 1
    assert drivers[0].db.sessions.current is None
    assert CONF.cassandra.port == 9042
    print('made')
"""


def test_importing_and_making_drivers_opens_and_registers_nothing() -> None:
    assert run(QUIET).split() == ['imported', 'made']
