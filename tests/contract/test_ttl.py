# SPDX-License-Identifier: Apache-2.0
"""Every column of every row has the right TTL, and nothing is left behind."""

import datetime
import uuid

import pytest
from keystone import exception
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from lab.waiting import until

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.drivers.token import opaque_ids, revoke
from keystone_cassandra_token.drivers.token import provider as token
from tests.contract import lives
from tests.contract.ttls import LATE, check, columns, ttls

SECOND = datetime.timedelta(seconds=1)

TRUST_TABLES = (
    'trust',
    'trust_use',
    'trust_by_trustor',
    'trust_by_trustee',
    'trust_by_project',
    'trust_claim',
)


@pytest.fixture
def session(store):
    return store.sessions.get().session


@pytest.fixture
def empty(session, keyspace):
    """Empty the tables of trusts."""
    for table in TRUST_TABLES:
        session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def tombstones(session, keyspace, table):
    """Return how many tombstones a read of a whole table meets."""
    future = session.execute_async(
        f'SELECT * FROM {keyspace}."{table}"', trace=True
    )
    rows = list(future.result())
    assert rows
    events = future.get_query_trace(max_wait=30).events
    # As Cassandra's tracing says for each partition range that it reads.
    said = [
        event.description.split()
        for event in events
        if event.description.startswith('Read ')
        and 'tombstone cells' in event.description
    ]
    assert said, [event.description for event in events]
    return sum(int(words[words.index('tombstone') - 1]) for words in said)


def make_token(seconds, **values):
    model = TokenModel()
    model.user_id = uuid.uuid4().hex
    model.methods = ['password']
    model.audit_id = uuid.uuid4().hex[:22]
    expires_at = clock.utcnow() + seconds * SECOND
    model.expires_at = expires_at.isoformat() + 'Z'
    for name, value in values.items():
        setattr(model, name, value)
    return model


FULL_TOKEN = {
    'parent_audit_id': 'parent',
    'system': 'all',
    'domain_id': 'domain',
    'project_id': 'project',
    'trust_id': 'trust',
    'federated_groups': [{'id': 'group'}],
    'identity_provider_id': 'idp',
    'protocol_id': 'protocol',
    'access_token_id': 'access',
    'application_credential_id': 'credential',
    'oauth2_thumbprint': 'thumbprint',
}


class TestToken:
    @pytest.mark.parametrize('seconds', [3600, 1, -3600])
    @pytest.mark.parametrize('values', [FULL_TOKEN, {}], ids=['full', 'bare'])
    def test_every_column(self, conf, session, keyspace, seconds, values):
        provider = token.Provider()
        token_id, _ = provider.generate_id_and_issued_at(
            make_token(seconds, **values)
        )
        found = ttls(
            session,
            keyspace,
            'token',
            {'id_hash': opaque_ids.hashed(conf, token_id)},
        )
        if values:
            assert sorted(found) == columns(session, keyspace, 'token')
        check(found, seconds + conf.token.allow_expired_window)

    def test_nothing_null_is_written(self, session, keyspace):
        session.execute(f'TRUNCATE {keyspace}."token"', timeout=60)
        provider = token.Provider()
        for _ in range(3):
            provider.generate_id_and_issued_at(make_token(3600))
        assert tombstones(session, keyspace, 'token') == 0


class TestRevocation:
    def test_every_column(self, conf, session, keyspace):
        user_id = uuid.uuid4().hex
        driver = revoke.Revoke()
        driver.revoke(revoke_model.RevokeEvent(user_id='it has heard of'))
        driver.revoke(revoke_model.RevokeEvent(user_id=user_id))
        expected = max(
            revocation_ttl.needed(conf),
            revocation_ttl.RevocationTTL(driver.db).current(),
        )
        for table in ('revocation', 'revocation_log'):
            found = ttls(
                session, keyspace, table, {'subject': f'user:{user_id}'}
            )
            assert sorted(found) == columns(session, keyspace, table)
            check(found, expected)

    @pytest.mark.parametrize('table', ['revocation', 'revocation_log'])
    def test_nothing_null_is_written(self, session, keyspace, table):
        session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)
        for number in range(3):
            revoke.Revoke().revoke(
                revoke_model.RevokeEvent(user_id=f'user-{number}')
            )
        assert tombstones(session, keyspace, table) == 0


def new_trust(seconds, **values):
    expires_at = clock.utcnow() + seconds * SECOND if seconds else None
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'impersonation': True,
        'expires_at': expires_at,
        'remaining_uses': 5,
        'redelegated_trust_id': 'other',
        'redelegation_count': 1,
        'note': 'x',
        **values,
    }


def make_trust(driver, values):
    trust_id = uuid.uuid4().hex
    driver.create_trust(trust_id, values, [{'id': 'role'}])
    return trust_id


@pytest.mark.usefixtures('empty')
class TestTrust:
    @pytest.fixture
    def driver(self, store):
        return trust.Trust()

    def every(self, session, keyspace, trust_id):
        return {
            table: ttls(
                session,
                keyspace,
                table,
                {'owner' if table == 'trust_claim' else 'id': trust_id},
            )
            for table in ('trust', 'trust_use', 'trust_claim')
        }

    @pytest.mark.parametrize('seconds', [3600, -600])
    @pytest.mark.parametrize('used', [0, 1, 4])
    def test_every_column(
        self, driver, conf, session, keyspace, seconds, used
    ):
        trust_id = make_trust(driver, new_trust(seconds))
        for _ in range(used):
            driver.consume_use(trust_id)
        expected = max(seconds, 0) + conf.cassandra.trust_retention
        for table, found in self.every(session, keyspace, trust_id).items():
            names = set(columns(session, keyspace, table))
            names -= {'deleted_at'}  # of a trust that is not deleted
            if not used:
                names -= {'attempt'}  # nobody has used it yet
            assert set(found) == names
            check(found, expected)

    def test_the_index_rows(self, driver, conf, session, keyspace):
        # They have no cells; a row that is gone after its TTL is tested
        # below.  Here: they are written with it.
        values = new_trust(3600)
        trust_id = make_trust(driver, values)
        for index in (trust.BY_TRUSTOR, trust.BY_TRUSTEE, trust.BY_PROJECT):
            assert index.insert_expiring.cql.endswith('USING TTL :ttl')
            assert index.ids(driver.db, values[index.column]) == [trust_id]

    @pytest.mark.parametrize('by', ['delete_trust', 'project'])
    def test_no_trust_outlives_its_deletion_mark(
        self, driver, session, keyspace, by
    ):
        values = new_trust(3600)
        trust_id = make_trust(driver, values)
        if by == 'project':
            driver.delete_trusts_for_project(values['project_id'])
        else:
            driver.delete_trust(trust_id)
        found = ttls(session, keyspace, 'trust', {'id': trust_id})
        mark = found.pop('deleted_at')
        assert mark > max(found.values()) + LATE

    def test_without_an_expiry_no_column_expires(
        self, driver, session, keyspace
    ):
        trust_id = make_trust(driver, new_trust(None))
        driver.consume_use(trust_id)
        driver.delete_trust(trust_id)
        for table in ('trust', 'trust_use'):
            found = ttls(session, keyspace, table, {'id': trust_id})
            assert set(found.values()) == {None}

    def test_nothing_null_is_written(self, driver, session, keyspace):
        for seconds in (3600, None):
            make_trust(
                driver,
                new_trust(
                    seconds,
                    remaining_uses=None,
                    redelegated_trust_id=None,
                    redelegation_count=None,
                ),
            )
            make_trust(driver, new_trust(seconds))
        for table in TRUST_TABLES:
            assert tombstones(session, keyspace, table) == 0, table

    @pytest.mark.parametrize('deleted', [False, True])
    def test_no_ghost_after_the_end(
        self, driver, session, keyspace, monkeypatch, deleted
    ):
        """A use counted just before the end brings nothing back to life."""
        real = clock.ttl_until
        # The retention is a minute at least: too long to wait for.
        monkeypatch.setattr(
            clock, 'ttl_until', lambda end, extra=0: real(end, 0)
        )
        monkeypatch.setattr(trust, 'MARGIN', 1)

        def live(life):
            values = new_trust(life)
            trust_id = make_trust(driver, values)
            driver.consume_use(trust_id)
            until(
                lambda: self.left(session, keyspace, trust_id) <= life / 2,
                'the middle of a life',
            )
            driver.consume_use(trust_id)
            if deleted:
                driver.delete_trust(trust_id)
            return trust_id, values

        trust_id, values = lives.long_enough(live)
        for table in TRUST_TABLES:
            lives.until_gone(
                lambda table=table: list(
                    session.execute(f'SELECT * FROM {keyspace}.{table}')
                )
            )
        with pytest.raises(exception.TrustNotFound):
            driver.consume_use(trust_id)
        # A conditional write finds nothing to change either.
        left = driver.db.cas(
            trust.CONSUME_EXPIRING,
            id=trust_id,
            seen=3,
            left=2,
            attempt=uuid.uuid4(),
            ttl=60,
        )
        assert not left
        for table in TRUST_TABLES:
            assert not list(
                session.execute(f'SELECT * FROM {keyspace}.{table}')
            )
        assert make_trust(
            driver, values | {'expires_at': clock.utcnow() + 5 * SECOND}
        )

    def left(self, session, keyspace, trust_id):
        """Return the seconds that a trust has left."""
        row = session.execute(
            'SELECT TTL(trustor_user_id) AS seconds'
            f' FROM {keyspace}.trust WHERE id = %s',
            (trust_id,),
        ).one()
        return row['seconds'] if row else 0
