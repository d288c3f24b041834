# SPDX-License-Identifier: Apache-2.0
"""Revocations while requests fail, and processes die between two of them."""

import copy
import datetime
import threading
import uuid

import cassandra
import keystone.conf
import pytest
from keystone.models import revoke_model
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import events, revoke
from tests.fault import faults

SECOND = datetime.timedelta(seconds=1)
NOW = clock.utcnow().replace(microsecond=0)


@pytest.fixture
def driver(store):
    made = revoke.Revoke()
    made.revoke(revoke_model.RevokeEvent(user_id='warm-up'))
    return made


@pytest.fixture
def session(store):
    return store.sessions.get().session


@pytest.fixture
def user_id():
    return uuid.uuid4().hex


def is_revoked(driver, user_id):
    token = revoke_model.blank_token_data(NOW)
    token |= {'roles': [], 'user_id': user_id}
    return revoke_model.is_revoked(driver.list_events(token=token), token)


def logged(driver, user_id):
    return [
        event
        for event in driver.list_events(last_fetch=NOW - SECOND)
        if event.user_id == user_id
    ]


def ttl(session, keyspace, user_id):
    """Return for how long a user stays revoked, in seconds."""
    rows = session.execute(
        f'SELECT TTL(issued_before) AS ttl FROM {keyspace}.revocation'
        ' WHERE subject = %s',
        (f'user:{user_id}',),
    )
    return max(row['ttl'] for row in rows)


@pytest.mark.parametrize(
    'error',
    [
        cassandra.OperationTimedOut(),
        cassandra.WriteFailure('no', error_code_map={}),
        cassandra.WriteTimeout('no', write_type=cassandra.WriteType.BATCH),
        cassandra.Unavailable('no', required_replicas=2, alive_replicas=1),
        ConnectionResetError('gone'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_who_is_told_has_both_writes(driver, store, user_id, error):
    """Else it is 503; of one that was not sent nothing is there."""
    event = revoke_model.RevokeEvent(user_id=user_id)
    with (
        faults.fail(store, revoke.LOG_EVENT, error),
        pytest.raises(errors.StoreUnavailable) as raised,
    ):
        driver.revoke(event)
    assert raised.value.code == 503
    assert not is_revoked(driver, user_id)
    assert not logged(driver, user_id)
    driver.revoke(event)
    assert is_revoked(driver, user_id)
    assert len(logged(driver, user_id)) == 1


@pytest.mark.parametrize('done', [revoke.REVOKE, revoke.LOG_EVENT])
def test_half_of_it_revokes_or_is_listed(
    driver, store, user_id, monkeypatch, done
):
    """What a batch without a log may leave of one that ended with 503."""
    event = revoke_model.RevokeEvent(user_id=user_id)

    def half(*steps):
        for statement, binds in steps:
            if statement is done:
                store.run(statement, **binds)
        raise errors.StoreUnavailable('Half of it is there.')

    with monkeypatch.context() as patch:
        patch.setattr(store, 'run_all', half)
        with pytest.raises(errors.StoreUnavailable):
            driver.revoke(event)
    assert is_revoked(driver, user_id) == (done is revoke.REVOKE)
    assert len(logged(driver, user_id)) == (done is revoke.LOG_EVENT)
    driver.revoke(event)
    assert is_revoked(driver, user_id)


def test_both_writes_wait_at_once(driver, store, user_id):
    """So a node that syncs its commit log for each waits for it once."""
    sent, answered = [], []

    class Answer:
        def __init__(self, future):
            self.future = future

        def result(self):
            answered.append(len(sent))
            return self.future.result()

    def note(statements, send):
        sent.extend(statements)
        return Answer(send())

    with faults.intercepted(store, note):
        driver.revoke(revoke_model.RevokeEvent(user_id=user_id))
    writes = [each for each in sent if each.verb == 'INSERT']
    assert writes == [revoke.REVOKE, revoke.LOG_EVENT]
    # With the read of the setting; none was waited for before all were sent.
    assert set(answered) == {len(sent)}


def test_a_lost_reply_is_asked_for_again(driver, store, user_id):
    with faults.lose_reply(store, revoke.REVOKE):
        driver.revoke(revoke_model.RevokeEvent(user_id=user_id))
    assert is_revoked(driver, user_id)
    assert len(logged(driver, user_id)) == 1


def test_lost_replies_are_503_and_both_tables(driver, store, user_id):
    event = revoke_model.RevokeEvent(user_id=user_id)
    with (
        faults.lose_reply(store, revoke.REVOKE, times=2),
        pytest.raises(errors.StoreUnavailable),
    ):
        driver.revoke(event)
    assert is_revoked(driver, user_id)
    assert len(logged(driver, user_id)) == 1
    driver.revoke(event)  # again does no harm
    assert is_revoked(driver, user_id)


def test_never_not_revoked_while_the_answer_is_missing(driver, store, user_id):
    driver.revoke(revoke_model.RevokeEvent(user_id=user_id))
    for error in (
        cassandra.ReadTimeout('no'),
        cassandra.ReadFailure('no', error_code_map={}),
        cassandra.Unavailable('no', required_replicas=2, alive_replicas=1),
        cassandra.OperationTimedOut(),
        ConnectionResetError('gone'),
    ):
        with (
            faults.fail(store, events.CHECK, error),
            pytest.raises(errors.StoreUnavailable) as raised,
        ):
            is_revoked(driver, user_id)
        assert raised.value.code == 503
    assert is_revoked(driver, user_id)


def test_the_setting_cannot_be_read(store, driver, user_id):
    # Also a first check: nobody may be told "not revoked" on a guess.
    fresh = revoke.Revoke()
    with (
        faults.fail(store, revocation_ttl.GET),
        pytest.raises(errors.StoreUnavailable),
    ):
        is_revoked(fresh, user_id)
    with (
        faults.fail(store, revocation_ttl.GET),
        pytest.raises(errors.StoreUnavailable),
    ):
        driver.revoke(revoke_model.RevokeEvent(user_id=user_id))


class TestRaising:
    """The setting is raised while processes die and others revoke."""

    @pytest.fixture(autouse=True)
    def fresh(self, session, keyspace):
        def forget():
            for name in (revocation_ttl.TTL, revocation_ttl.EVERYWHERE):
                session.execute(
                    f'DELETE FROM {keyspace}.schema_setting'
                    f" WHERE name = '{name}' IF EXISTS"
                )

        forget()
        yield forget
        forget()

    @pytest.fixture
    def short_conf(self, conf):
        """A server's configuration with short tokens."""
        other = cfg.ConfigOpts()
        keystone.conf.configure(other)
        options.register_opts(other)
        other([], project='keystone', default_config_files=[])
        for name in ('port', 'keyspace'):
            other.set_override(name, conf.cassandra[name], 'cassandra')
        other.set_override(
            'cassandra_node_ips', conf.database.cassandra_node_ips, 'database'
        )
        other.set_override('expiration', 60, 'token')
        other.set_override('allow_expired_window', 0, 'token')
        other.set_override('expiration_buffer', 0, 'revoke')
        yield other
        base.shared(other).close()

    @pytest.fixture
    def short(self, short_conf, monkeypatch):
        """A server whose last revocation was before anybody raised."""
        with monkeypatch.context() as patch:
            patch.setattr(keystone.conf, 'CONF', short_conf)
            made = revoke.Revoke()
        made.revoke(revoke_model.RevokeEvent(user_id='warm-up'))
        return made

    def values(self, setting):
        return [
            setting.read(revocation_ttl.SETTLE, name)
            for name in (revocation_ttl.TTL, revocation_ttl.EVERYWHERE)
        ]

    @pytest.mark.parametrize('before', [0, 50])
    def test_crash_after_each_request(self, store, fresh, before):
        def prepare():
            fresh()
            setting = revocation_ttl.RevocationTTL(store)
            if before:
                setting.ensure(before)
            return revocation_ttl.RevocationTTL(store)

        for _, setting in faults.each_crash(
            store, prepare, lambda setting: setting.ensure(100)
        ):
            written, everywhere = self.values(setting)
            # A token never counts on more than a revocation gets.
            assert before <= everywhere <= written <= 100
            again = revocation_ttl.RevocationTTL(store)
            again.ensure(100)
            assert self.values(again) == [100, 100]

    @pytest.mark.parametrize('name', ['SET', 'RAISE', 'GET_EVERYWHERE'])
    @pytest.mark.parametrize('fault', [faults.fail, faults.lose_reply])
    def test_a_failed_request(self, store, name, fault):
        if name == 'RAISE':
            revocation_ttl.RevocationTTL(store).ensure(50)
        setting = revocation_ttl.RevocationTTL(store)
        target = getattr(revocation_ttl, name)
        with fault(store, target, times=2):
            try:
                setting.ensure(100)
                sure = True
            except errors.StoreUnavailable:
                sure = False
        assert sure == (
            fault is faults.lose_reply and name != 'GET_EVERYWHERE'
        )
        setting.ensure(100)
        assert self.values(setting) == [100, 100]

    def test_two_raise_at_once_and_the_higher_stays(self, store):
        lower = revocation_ttl.RevocationTTL(store)
        with faults.hold(store, revocation_ttl.SET) as held:
            thread = threading.Thread(target=lower.ensure, args=(50,))
            thread.start()
            assert held.reached.wait(30)
            revocation_ttl.RevocationTTL(store).ensure(100)
            held.release()
            thread.join(60)
        assert not thread.is_alive()
        assert self.values(lower) == [100, 100]

    def test_a_failed_revocation_shortens_nobodys(
        self, store, short, session, keyspace, user_id
    ):
        """An acknowledged revocation outlives its tokens, come what may.

        A server that has not yet heard of the longer TTL revokes the same
        user later and dies after each of its requests, or cannot read the
        setting.
        """
        long = revoke.Revoke()
        needed = revocation_ttl.needed(long.conf)
        long.revoke(revoke_model.RevokeEvent(user_id='warm-up'))
        stale = short.ttl
        for after in range(8):
            user = f'{user_id}-{after}'
            long.revoke(revoke_model.RevokeEvent(user_id=user))
            short.ttl = copy.copy(stale)
            with faults.crash(short.db, after) as point:
                short.revoke(
                    revoke_model.RevokeEvent(
                        user_id=user,
                        issued_before=NOW + 60 * SECOND,
                    )
                )
            assert ttl(session, keyspace, user) >= needed - 60, (
                f'shortened after {after} requests'
            )
            if not point.fired:
                break
        else:
            pytest.fail('it never came to its end')
        user = f'{user_id}-setting'
        long.revoke(revoke_model.RevokeEvent(user_id=user))
        short.ttl = copy.copy(stale)
        with (
            faults.lose_reply(short.db, revocation_ttl.GET, times=2),
            pytest.raises(errors.StoreUnavailable),
        ):
            short.revoke(
                revoke_model.RevokeEvent(
                    user_id=user, issued_before=NOW + 600 * SECOND
                )
            )
        assert ttl(session, keyspace, user) >= needed - 60
