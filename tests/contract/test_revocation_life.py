# SPDX-License-Identifier: Apache-2.0
"""How long revocations live, what they cost, and what happens without them."""

import datetime
import uuid

import pytest
from keystone.models import revoke_model
from keystone.revoke.backends import sql as sql_revoke
from oslo_utils import fixture as time_fixture
from oslo_utils import timeutils

from keystone_cassandra_token import clock, errors, revocation_ttl
from keystone_cassandra_token.drivers import revoke, token
from tests.contract import sql_oracle
from tests.fault import faults


@pytest.fixture
def driver(store):
    return revoke.Revoke()


@pytest.fixture
def session(store):
    return store._sessions.get().session


def token_of(**values):
    issued = timeutils.utcnow().replace(microsecond=0)
    blank = revoke_model.blank_token_data(issued)
    return blank | {'roles': []} | values


def ttls(session, keyspace, subject):
    """Return the TTLs of a subject's columns, in seconds."""
    row = session.execute(
        'SELECT TTL(issued_before) AS before, TTL(revoked_at) AS at'
        f' FROM {keyspace}.revocation WHERE subject = %s',
        (subject,),
    ).one()
    return row['before'], row['at']


def test_sql_forgets_a_revocation_that_a_window_still_needs(driver, conf):
    """Revoked, pruned 90 minutes later, accepted again: not here."""
    revoked = token_of(audit_id=uuid.uuid4().hex)
    event = revoke_model.RevokeEvent(audit_id=revoked['audit_id'])
    assert conf.token.allow_expired_window > conf.revoke.expiration_buffer
    with sql_oracle.sqlite(sql_revoke.RevocationEvent):
        oracle = sql_revoke.Revoke()
        oracle.revoke(event)
        driver.revoke(event)
        assert revoke_model.is_revoked(
            oracle.list_events(token=revoked), revoked
        )
        later = timeutils.utcnow() + datetime.timedelta(minutes=91)
        with time_fixture.TimeFixture(later):
            # Any other revocation prunes; the token is fetchable for
            # another two days with ?allow_expired=1.
            other = revoke_model.RevokeEvent(user_id=uuid.uuid4().hex)
            oracle.revoke(other)
            driver.revoke(other)
            assert not revoke_model.is_revoked(
                oracle.list_events(token=revoked), revoked
            ), 'the hole of the SQL driver'
            assert revoke_model.is_revoked(
                driver.list_events(token=revoked), revoked
            )


def test_a_revocation_outlives_all_that_it_stops(
    driver, session, keyspace, conf
):
    user = uuid.uuid4().hex
    driver.revoke(revoke_model.RevokeEvent(user_id=user))
    longest = conf.token.expiration + conf.token.allow_expired_window
    for ttl in ttls(session, keyspace, f'user:{user}'):
        assert ttl > longest


@pytest.mark.parametrize('longer_first', [True, False])
def test_servers_of_other_lifetimes_do_not_shorten(
    driver, session, keyspace, conf, longer_first
):
    """Two configurations, one keyspace: the longer one counts for both."""
    user = uuid.uuid4().hex
    raised = revocation_ttl.RevocationTTL(driver.db).current() + 5000
    default = conf.token.allow_expired_window

    def revoke_with(window):
        conf.set_override('allow_expired_window', window, group='token')
        try:
            other = revoke.Revoke()
            other.revoke(revoke_model.RevokeEvent(user_id=user))
        finally:
            conf.clear_override('allow_expired_window', group='token')

    rest = conf.token.expiration + conf.revoke.expiration_buffer
    windows = [raised - rest, default]
    for window in windows if longer_first else reversed(windows):
        revoke_with(window)
    for ttl in ttls(session, keyspace, f'user:{user}'):
        assert raised - 60 < ttl <= raised


def test_a_server_that_runs_learns_of_a_longer_life(driver, session, keyspace):
    """The value last seen is never what is acknowledged."""
    driver.revoke(revoke_model.RevokeEvent(user_id='before'))
    other = revocation_ttl.RevocationTTL(driver.db)
    raised = other.current() + 3000
    other.ensure(raised)
    user = uuid.uuid4().hex
    driver.revoke(revoke_model.RevokeEvent(user_id=user))
    for ttl in ttls(session, keyspace, f'user:{user}'):
        assert raised - 60 < ttl <= raised


def test_the_life_never_shrinks(driver):
    setting = revocation_ttl.RevocationTTL(driver.db)
    before = setting.current()
    setting.ensure(before - 1000)
    assert revocation_ttl.RevocationTTL(driver.db).current() == before


def test_a_token_waits_for_its_revocations_life(store, conf):
    """A token is issued only once all regions keep revocations for it."""
    provider = token.Provider()
    model = token.TokenModel()
    model.user_id, model.methods, model.audit_id = 'u', ['password'], 'a'
    days = datetime.timedelta(days=30)
    model.expires_at = (timeutils.utcnow() + days).isoformat() + 'Z'
    provider.generate_id_and_issued_at(model)
    setting = revocation_ttl.RevocationTTL(store)
    assert setting.current() >= days.total_seconds()
    everywhere = store.one(
        revocation_ttl.GET,
        revocation_ttl.SETTING,
        name=revocation_ttl.EVERYWHERE,
    )
    assert int(everywhere['value']) >= days.total_seconds()


@pytest.mark.parametrize('later_first', [True, False])
def test_the_later_watermark_wins_in_any_order(driver, later_first):
    user = uuid.uuid4().hex
    now = timeutils.utcnow().replace(microsecond=0)
    earlier = now - datetime.timedelta(minutes=5)
    order = [now, earlier] if later_first else [earlier, now]
    for issued_before in order:
        driver.revoke(
            revoke_model.RevokeEvent(user_id=user, issued_before=issued_before)
        )
    (event,) = driver.list_events(token=token_of(user_id=user))
    assert event.issued_before == now


def test_a_future_watermark_lasts_as_much_longer(driver, session, keyspace):
    user = uuid.uuid4().hex
    ahead = datetime.timedelta(hours=10)
    driver.revoke(
        revoke_model.RevokeEvent(
            user_id=user, issued_before=timeutils.utcnow() + ahead
        )
    )
    least = revocation_ttl.RevocationTTL(driver.db).current()
    least += ahead.total_seconds() - 60
    assert min(ttls(session, keyspace, f'user:{user}')) >= least


@pytest.mark.parametrize('events', [1, 300])
def test_a_check_is_one_request(driver, store, events):
    user = uuid.uuid4().hex
    checked = token_of(user_id=user, project_id='0', trustor_id='t')
    for number in range(events):
        driver.revoke(
            revoke_model.RevokeEvent(user_id=user, project_id=str(number))
        )
    driver.list_events(token=checked)  # its first asks for the TTL
    with faults.counted(store) as sent:
        assert len(driver.list_events(token=checked)) == 1
    assert sent == [(revoke.CHECK,)]


def test_both_tables_are_written_in_one_batch(driver, store):
    driver.revoke(revoke_model.RevokeEvent(user_id='warm'))
    with faults.counted(store) as sent:
        driver.revoke(revoke_model.RevokeEvent(user_id='u'))
    assert sent == [
        (revocation_ttl.GET,),
        (revoke.REVOKE, revoke.LOG_EVENT),
    ]


def test_checks_fail_closed(driver, store):
    checked = token_of(user_id='u')
    driver.list_events(token=checked)
    with (
        faults.fail(store, revoke.CHECK),
        pytest.raises(errors.StoreUnavailable) as raised,
    ):
        driver.list_events(token=checked)
    assert raised.value.code == 503


def test_a_revocation_that_failed_is_not_acknowledged(driver, store):
    driver.revoke(revoke_model.RevokeEvent(user_id='warm'))
    for statement in (revoke.REVOKE, revocation_ttl.GET):
        with (
            faults.fail(store, statement),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.revoke(revoke_model.RevokeEvent(user_id='u'))


def test_a_lost_answer_leaves_both_rows(driver, store):
    user = uuid.uuid4().hex
    driver.revoke(revoke_model.RevokeEvent(user_id='warm'))
    with (
        faults.lose_reply(store, revoke.REVOKE),
        pytest.raises(errors.StoreUnavailable),
    ):
        driver.revoke(revoke_model.RevokeEvent(user_id=user))
    assert driver.list_events(token=token_of(user_id=user))
    assert user in {event.user_id for event in driver.list_events()}


def test_the_list_is_in_order_and_keeps_equal_events(driver):
    user = uuid.uuid4().hex
    now = timeutils.utcnow().replace(microsecond=0)
    # On both sides of the border between two buckets.
    border = now.replace(minute=0, second=0)
    times = [
        border - datetime.timedelta(seconds=1),
        border,
        border,
        border + datetime.timedelta(seconds=1),
    ]
    for when in reversed(times):
        driver.revoke(revoke_model.RevokeEvent(user_id=user, revoked_at=when))

    def listed(since):
        return [
            event.revoked_at
            for event in driver.list_events(since)
            if event.user_id == user
        ]

    assert listed(None) == times
    assert listed(times[0]) == times[1:]
    assert listed(times[1]) == times[3:]
    assert listed(times[3]) == []


def test_every_column_of_the_log_expires(driver, session, keyspace):
    driver.revoke(revoke_model.RevokeEvent(user_id=uuid.uuid4().hex))
    rows = session.execute(
        'SELECT TTL(subject) AS a, TTL(scope) AS b, TTL(issued_before) AS c'
        f' FROM {keyspace}.revocation_log'
    )
    for row in rows:
        assert all(ttl and 0 < ttl <= clock.MAX_TTL for ttl in row.values())
