# SPDX-License-Identifier: Apache-2.0
"""What a revocation promises beside which tokens it stops."""

import datetime
import itertools
import uuid

import keystone.conf
import pytest
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from keystone.revoke.backends import sql as sql_revoke
from oslo_config import cfg
from oslo_utils import timeutils

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers.token import events, revoke
from keystone_cassandra_token.drivers.token import provider as token
from tests.contract import sql_oracle
from tests.fault import faults

SECOND = datetime.timedelta(seconds=1)
NOW = clock.utcnow().replace(microsecond=0)


@pytest.fixture
def driver(store):
    return revoke.Revoke()


@pytest.fixture
def session(store):
    return store.sessions.get().session


@pytest.fixture
def user_id():
    return uuid.uuid4().hex


def event(**values):
    return revoke_model.RevokeEvent(**values)


def values(**known):
    return revoke_model.blank_token_data(NOW) | {'roles': []} | known


def is_revoked(driver, token_values):
    return revoke_model.is_revoked(
        driver.list_events(token=token_values), token_values
    )


def stored(session, keyspace, user_id, what='*'):
    return list(
        session.execute(
            f'SELECT {what} FROM {keyspace}.revocation WHERE subject = %s',
            (f'user:{user_id}',),
        )
    )


class TestHoleOfSQL:
    """Revoked, pruned, accepted again: with SQL, and not with ours.

    ``GET /v3/auth/tokens?allow_expired=1`` accepts a token for 48 h after
    its hour; the SQL driver drops its revocation after an hour and a half,
    at anybody's next one.
    """

    @pytest.fixture
    def sql_driver(self, keyspace):
        with sql_oracle.sqlite(sql_revoke.RevocationEvent):
            yield sql_revoke.Revoke()
        timeutils.clear_time_override()

    def test_only_ours_keeps_it_revoked(
        self, conf, driver, sql_driver, session, keyspace, user_id
    ):
        issued = clock.utcnow()
        made = TokenModel()
        made.user_id = user_id
        made.methods = ['password']
        made.audit_id = uuid.uuid4().hex[:22]
        made.expires_at = (
            issued + conf.token.expiration * SECOND
        ).isoformat() + 'Z'
        provider = token.Provider()
        token_id, _ = provider.generate_id_and_issued_at(made)

        def shown():
            found = provider.validate_token(token_id)
            return values(
                user_id=found[0],
                audit_id=found[2][0],
                issued_at=timeutils.normalize_time(
                    timeutils.parse_isotime(found[13])
                ),
                expires_at=timeutils.normalize_time(
                    timeutils.parse_isotime(found[14])
                ),
            )

        drivers = (sql_driver, driver)
        for each in drivers:
            each.revoke(event(audit_id=made.audit_id))
            each.revoke(event(user_id=user_id))
        assert all(is_revoked(each, shown()) for each in drivers)

        later = issued + (90 * 60 + 5) * SECOND
        timeutils.set_time_override(later)
        for each in drivers:
            each.revoke(event(user_id='somebody else'))  # SQL prunes
        # Keystone's own test of ?allow_expired=1 lets the token pass:
        window = conf.token.allow_expired_window * SECOND
        assert later < shown()['expires_at'] + window
        assert not is_revoked(sql_driver, shown()), 'SQL has no hole any more'
        assert is_revoked(driver, shown())
        # And it lasts: in Cassandra's own time, until nobody accepts it.
        for subject in (f'audit:{made.audit_id}', f'user:{user_id}'):
            (row,) = session.execute(
                'SELECT TTL(issued_before) AS ttl FROM'
                f' {keyspace}.revocation WHERE subject = %s',
                (subject,),
            )
            end = issued + row['ttl'] * SECOND
            assert end > shown()['expires_at'] + window


class TestTTL:
    """Servers with different ``[token] expiration`` on one keyspace."""

    @pytest.fixture
    def fresh(self, session, keyspace):
        """A keyspace that no server has raised the TTL of."""

        def forget():
            for name in (revocation_ttl.TTL, revocation_ttl.EVERYWHERE):
                session.execute(
                    f'DELETE FROM {keyspace}.schema_setting'
                    f" WHERE name = '{name}' IF EXISTS"
                )

        forget()
        yield
        forget()

    @pytest.fixture
    def server(self, fresh, conf, monkeypatch):
        """Return a function that makes another server's driver."""
        opened = []

        def make(expiration, window=100):
            other = cfg.ConfigOpts()
            keystone.conf.configure(other)
            options.register_opts(other)
            other([], project='keystone', default_config_files=[])
            for name in ('port', 'keyspace'):
                other.set_override(name, conf.cassandra[name], 'cassandra')
            other.set_override(
                'cassandra_node_ips',
                conf.database.cassandra_node_ips,
                'database',
            )
            other.set_override('expiration', expiration, 'token')
            other.set_override('allow_expired_window', window, 'token')
            with monkeypatch.context() as patch:
                patch.setattr(keystone.conf, 'CONF', other)
                made = revoke.Revoke()
            opened.append(made.db)
            made.needs = revocation_ttl.needed(other)
            return made

        yield make
        for db in opened:
            db.close()

    def ttl(self, session, keyspace, user_id):
        """Return for how long the latest event on a user lasts, in s."""
        rows = stored(
            session,
            keyspace,
            user_id,
            'issued_before, TTL(issued_before) AS ttl,'
            ' TTL(revoked_at) AS other',
        )
        for row in rows:
            assert abs(row['ttl'] - row['other']) <= 1
        latest = max(row['issued_before'] for row in rows)
        return max(
            row['ttl'] for row in rows if row['issued_before'] == latest
        )

    @pytest.mark.parametrize('first', ['short', 'long'])
    @pytest.mark.parametrize('later', ['short', 'long'])
    def test_nobody_shortens_a_revocation(
        self, server, session, keyspace, user_id, first, later
    ):
        short, long = server(60), server(7200)
        # Both serve already, the short one before the long one came.
        short.revoke(event(user_id='warm-up'))
        long.revoke(event(user_id='warm-up'))
        order = {'short': [short, long], 'long': [long, short]}[first]
        newest = {'short': short, 'long': long}[later]
        for each in order:
            offset = SECOND if each is newest else 0 * SECOND
            each.revoke(event(user_id=user_id, issued_before=NOW + offset))
        rows = stored(session, keyspace, user_id)
        latest = max(row['issued_before'] for row in rows)
        assert latest == clock.to_micros(NOW + SECOND)
        assert self.ttl(session, keyspace, user_id) >= long.needs - 30

    def test_raised_once_and_never_lowered(self, server, store):
        long, short = server(7200), server(60)
        long.revoke(event(user_id='warm-up'))
        short.revoke(event(user_id='warm-up'))
        setting = revocation_ttl.RevocationTTL(store)
        for name in (revocation_ttl.TTL, revocation_ttl.EVERYWHERE):
            assert setting.read(revocation_ttl.SETTLE, name) == long.needs
        longer = server(9000)
        longer.revoke(event(user_id='warm-up'))
        assert setting.read(revocation_ttl.SETTLE, revocation_ttl.TTL) == (
            longer.needs
        )

    def test_a_server_that_was_idle_uses_what_others_raised(
        self, server, session, keyspace, user_id
    ):
        idle = server(60)
        idle.revoke(event(user_id='warm-up'))
        raised = server(7200)
        raised.list_events(token=values(user_id=user_id))
        idle.revoke(event(user_id=user_id, issued_before=NOW + SECOND))
        assert self.ttl(session, keyspace, user_id) >= raised.needs - 30

    def test_a_token_waits_until_its_revocations_last(self, fresh, store):
        made = TokenModel()
        made.user_id, made.methods, made.audit_id = 'u', ['password'], 'a'
        days = datetime.timedelta(days=30)
        made.expires_at = (clock.utcnow() + days).isoformat() + 'Z'
        token.Provider().generate_id_and_issued_at(made)
        setting = revocation_ttl.RevocationTTL(store)
        for name in (revocation_ttl.TTL, revocation_ttl.EVERYWHERE):
            lasts = setting.read(revocation_ttl.SETTLE, name)
            assert lasts >= days.total_seconds()

    def test_a_new_server_writes_its_first_one_once(
        self, server, session, keyspace, user_id
    ):
        server(7200).revoke(event(user_id='warm-up'))
        server(60).revoke(event(user_id=user_id))
        assert len(stored(session, keyspace, user_id)) == 1

    def test_issued_before_in_the_future_lasts_longer(
        self, driver, conf, session, keyspace, user_id
    ):
        ahead = 600 * SECOND
        driver.revoke(
            event(user_id=user_id, issued_before=clock.utcnow() + ahead)
        )
        least = revocation_ttl.needed(conf) + 600 - 30
        assert self.ttl(session, keyspace, user_id) >= least

    def test_an_equal_repeat_never_shortens(
        self, driver, session, keyspace, user_id, monkeypatch
    ):
        def with_ttl(seconds):
            monkeypatch.setattr(
                clock, 'ttl_until', lambda end, extra=0: seconds
            )
            driver.revoke(event(user_id=user_id, issued_before=NOW))
            monkeypatch.undo()

        for seconds in (500, 5000, 600):
            with_ttl(seconds)
        assert self.ttl(session, keyspace, user_id) > 4900


class TestWatermark:
    @pytest.mark.parametrize(
        'order', list(itertools.permutations((0, 1, 2, 2)))[::3]
    )
    def test_the_latest_wins_in_any_order(
        self, driver, session, keyspace, user_id, order
    ):
        for offset in order:
            moment = NOW + offset * SECOND
            driver.revoke(event(user_id=user_id, issued_before=moment))
        (row,) = stored(session, keyspace, user_id)
        assert row['issued_before'] == clock.to_micros(NOW + 2 * SECOND)

    def test_many_times_is_one_row(self, driver, session, keyspace, user_id):
        for _ in range(50):
            driver.revoke(event(user_id=user_id))
        assert len(stored(session, keyspace, user_id)) == 1

    def test_microseconds_stay(self, driver, session, keyspace, user_id):
        moment = NOW + datetime.timedelta(microseconds=123457)
        driver.revoke(event(user_id=user_id, issued_before=moment))
        (found,) = driver.list_events(token=values(user_id=user_id))
        assert found.issued_before == moment
        just_after = moment + datetime.timedelta(microseconds=1)
        assert not is_revoked(
            driver, values(user_id=user_id, issued_at=just_after)
        )
        assert is_revoked(driver, values(user_id=user_id, issued_at=moment))


FULL = {
    'user_id': 'user',
    'trustor_id': 'trustor',
    'trustee_id': 'trustee',
    'project_id': 'project',
    'trust_id': 'trust',
    'consumer_id': 'consumer',
    'audit_id': 'audit',
    'audit_chain_id': 'chain',
    'access_token_id': 'access',
    'identity_domain_id': 'domain',
    'assignment_domain_id': 'domain',
    'roles': ['role'],
}


def test_one_round_trip_per_check(driver, store):
    prefix = uuid.uuid4().hex
    full = {
        name: [prefix + value[0]] if name == 'roles' else prefix + value
        for name, value in FULL.items()
    }
    asked = values(**full, expires_at=NOW)
    driver.list_events(token=asked)  # warm-up: what its TTL must be
    for number in (0, 1, 40):
        for index in range(number):
            driver.revoke(event(user_id=full['user_id'], role_id=f'r{index}'))
            driver.revoke(
                event(project_id=full['project_id'], user_id=f'{index}')
            )
            driver.revoke(event(user_id=f'{prefix}{index}'))
        with faults.counted(store) as sent:
            assert not is_revoked(driver, asked)
        assert sent == [(events.CHECK,)]
    with faults.counted(store) as sent:
        driver.list_events(token=values())  # not even one user
    assert sent == [(events.CHECK,)]


@pytest.mark.parametrize(
    'name', ['user_id', 'project_id', 'trust_id', 'role_id', 'audit_id']
)
def test_integer_ids(driver, name):
    number = uuid.uuid4().int >> 80
    driver.revoke(event(**{name: number}))
    own = (
        {'roles': [str(number)]} if name == 'role_id' else {name: str(number)}
    )
    assert is_revoked(driver, values(**own))


def test_no_attribute_revokes_all_before(driver, session, keyspace):
    driver.revoke(event(issued_before=NOW))
    try:
        assert is_revoked(driver, values(user_id='any'))
        later = values(user_id='any', issued_at=NOW + SECOND)
        assert not is_revoked(driver, later)
    finally:
        session.execute(f'TRUNCATE {keyspace}.revocation', timeout=60)


class TestListSince:
    """``list_events(last_fetch)``: what a feed reads."""

    @pytest.fixture(autouse=True)
    def _empty(self, session, keyspace):
        session.execute(f'TRUNCATE {keyspace}.revocation_log', timeout=60)

    def test_in_order_and_only_newer(self, driver):
        moments = [NOW - offset * SECOND for offset in (5, 1, 4, 2, 3)]
        for moment in moments:
            driver.revoke(event(user_id='u', revoked_at=moment))
        listed = driver.list_events()
        assert [e.revoked_at for e in listed] == sorted(moments)
        newer = driver.list_events(last_fetch=NOW - 3 * SECOND)
        assert [e.revoked_at for e in newer] == [
            NOW - 2 * SECOND,
            NOW - SECOND,
        ]
        assert driver.list_events(last_fetch=NOW) == []

    def test_over_the_edges_of_buckets(self, driver):
        hour = NOW.replace(minute=0, second=0)
        micro = datetime.timedelta(microseconds=1)
        moments = [
            edge + offset
            for edge in (hour - 3600 * SECOND, hour)
            for offset in (-micro, 0 * micro, micro)
        ]
        for moment in moments:
            driver.revoke(event(user_id='u', revoked_at=moment))
        for number, moment in enumerate(moments):
            newer = driver.list_events(last_fetch=moment)
            assert [e.revoked_at for e in newer] == moments[number + 1 :]

    def test_two_events_in_one_second_stay(self, driver):
        for _ in range(2):
            driver.revoke(event(user_id='u', revoked_at=NOW))
        driver.revoke(event(project_id='p', revoked_at=NOW))
        found = driver.list_events(last_fetch=NOW - SECOND)
        assert len(found) == 3
        assert {(e.user_id, e.project_id) for e in found} == {
            ('u', None),
            (None, 'p'),
        }

    def test_all_attributes_come_back(self, driver):
        made = event(
            user_id='u',
            project_id='p',
            audit_id='a',
            audit_chain_id='c',
            trust_id='t',
            consumer_id='o',
            access_token_id='x',
            role_id='r',
            domain_id='d',
            expires_at=NOW + 1.5 * SECOND,
            issued_before=NOW - 7.25 * SECOND,
            revoked_at=NOW,
        )
        driver.revoke(made)
        (found,) = driver.list_events(last_fetch=NOW - SECOND)
        assert vars(found) == vars(made)

    def test_a_log_row_lives_as_long_as_its_event(
        self, driver, conf, session, keyspace
    ):
        driver.revoke(event(user_id='u'))
        (row,) = session.execute(
            f'SELECT TTL(subject) AS ttl FROM {keyspace}.revocation_log'
        )
        assert row['ttl'] >= revocation_ttl.needed(conf) - 30


@pytest.mark.parametrize(
    ('target', 'asked'),
    [(events.CHECK, {'token': values(user_id='u')}), (revoke.GET_SINCE, {})],
    ids=['check', 'list'],
)
def test_fails_closed(driver, store, target, asked):
    driver.list_events(token=values())
    with (
        faults.fail(store, target, times=-1),
        pytest.raises(errors.StoreUnavailable) as raised,
    ):
        driver.list_events(**asked)
    assert raised.value.code == 503
