# SPDX-License-Identifier: Apache-2.0
"""The token provider against a real node, beside Keystone's Fernet one."""

import base64
import datetime
import hashlib
import hmac
import secrets
import string
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.common import fernet_utils
from keystone.common import utils as ks_utils
from keystone.models.token_model import TokenModel
from keystone.token.providers.fernet import core as fernet
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.token import provider as tokens
from tests.contract import lives
from tests.fault import faults

FIELDS = (
    'user_id',
    'methods',
    'audit_ids',
    'system',
    'domain_id',
    'project_id',
    'trust_id',
    'federated_group_ids',
    'identity_provider_id',
    'protocol_id',
    'access_token_id',
    'app_cred_id',
    'thumbprint',
    'issued_at',
    'expires_at',
)
#: The order in which Fernet gives methods back is that of its bit mask.
METHODS = [
    'external',
    'password',
    'token',
    'oauth1',
    'mapped',
    'application_credential',
    'totp',
]

ids = st.uuids(version=4).map(lambda value: value.hex)
audit_ids = st.binary(min_size=16, max_size=16).map(
    lambda raw: base64.urlsafe_b64encode(raw)[:-2].decode()
)
names = st.text(string.ascii_letters + 'äß水_-.:/ ', min_size=1, max_size=64)
methods = st.lists(
    st.sampled_from(METHODS), min_size=1, max_size=4, unique=True
)
groups = st.lists(st.builds(lambda i: {'id': i}, ids), max_size=6)
# As isotime(subsecond=True) writes it, a minute to a week from now.
lifetimes = st.tuples(st.integers(60, 7 * 86400), st.integers(0, 999_999))

#: What each kind of token carries beside user, methods, audit ids and times.
KINDS = {
    'unscoped': {},
    'project': {'project_id': ids},
    'domain': {'domain_id': ids | st.just('default')},
    'system': {'system': st.just('all')},
    'trust': {'project_id': ids, 'trust_id': ids},
    'application credential': {
        'project_id': ids,
        'application_credential_id': ids,
    },
    'OAuth1': {'project_id': ids, 'access_token_id': ids},
    'OAuth2 mTLS': {
        'project_id': ids,
        'oauth2_thumbprint': st.binary(min_size=32, max_size=32).map(
            lambda raw: base64.urlsafe_b64encode(raw).decode()
        ),
    },
}
FEDERATED = {
    'is_federated': st.just(True),
    'identity_provider_id': names | ids,
    'protocol_id': names,
    'federated_groups': groups,
}
for scope in ('unscoped', 'project', 'domain'):
    KINDS[f'federated {scope}'] = FEDERATED | KINDS[scope]
KINDS['federated without groups'] = FEDERATED | {
    'federated_groups': st.just([])
}

quietly = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def models(draw, kind):
    """Draw a token as Keystone gives it to a provider."""
    token = TokenModel()
    token.user_id = draw(ids | names)
    token.methods = draw(methods)
    token.audit_id = draw(audit_ids)
    token.parent_audit_id = draw(st.none() | audit_ids)
    seconds, micros = draw(lifetimes)
    expires_at = clock.utcnow() + datetime.timedelta(
        seconds=seconds, microseconds=micros
    )
    token.expires_at = ks_utils.isotime(expires_at, subsecond=True)
    for name, values in KINDS[kind].items():
        setattr(token, name, draw(values))
    return token


def expected(token, issued_at):
    """Return the 15 values of the interface for a token."""
    return (
        token.user_id,
        token.methods,
        token.audit_ids,
        token.system,
        token.domain_id,
        token.project_id,
        token.trust_id,
        token.federated_groups,
        token.identity_provider_id,
        token.protocol_id,
        token.access_token_id,
        token.application_credential_id,
        token.oauth2_thumbprint,
        issued_at,
        token.expires_at,
    )


def project_token(**values):
    token = TokenModel()
    token.user_id = uuid.uuid4().hex
    token.methods = ['password']
    token.audit_id = ks_audit_id()
    token.project_id = uuid.uuid4().hex
    token.expires_at = in_seconds(3600)
    for name, value in values.items():
        setattr(token, name, value)
    return token


def ks_audit_id():
    return base64.urlsafe_b64encode(uuid.uuid4().bytes)[:-2].decode()


def in_seconds(seconds):
    when = clock.utcnow() + datetime.timedelta(seconds=seconds)
    return ks_utils.isotime(when, subsecond=True)


@pytest.fixture
def provider(store):
    return tokens.Provider()


@pytest.fixture
def fernet_provider(conf, tmp_path):
    conf.set_override('key_repository', str(tmp_path), 'fernet_tokens')
    conf.set_override('methods', METHODS, 'auth')
    try:
        repository = fernet_utils.FernetUtils(
            str(tmp_path), 3, 'fernet_tokens'
        )
        repository.create_key_directory()
        repository.initialize_key_repository()
        yield fernet.Provider()
    finally:
        conf.clear_override('key_repository', 'fernet_tokens')
        conf.clear_override('methods', 'auth')


@pytest.fixture
def session(store):
    return store.sessions.get().session


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_all_values_round_trip(provider, fernet_provider, kind):
    @quietly
    @given(models(kind))
    def round_trip(token):
        before = clock.utcnow().replace(microsecond=0)
        token_id, issued_at = provider.generate_id_and_issued_at(token)
        found = provider.validate_token(token_id)

        assert found == expected(token, issued_at)
        assert [type(value) for value in found] == [
            type(value) for value in expected(token, issued_at)
        ]
        issued = parsed(issued_at)
        assert before <= issued <= clock.utcnow()
        assert issued.microsecond == 0

        check_against_fernet(fernet_provider, token, found)

    round_trip()


def check_against_fernet(fernet_provider, token, found):
    """Compare with what Fernet gives back for the same token.

    Equal but for two things.  Methods come in the order of its bit mask.
    Times: ``issued_at`` is in whole seconds in both, taken a moment apart,
    and ``expires_at`` passes through a float there, which in our centuries
    can cost the last microsecond; ours is exact.
    """
    fernet_id, fernet_issued = fernet_provider.generate_id_and_issued_at(token)
    theirs = dict(
        zip(FIELDS, fernet_provider.validate_token(fernet_id), strict=True)
    )
    ours = dict(zip(FIELDS, found, strict=True))
    assert sorted(theirs.pop('methods')) == sorted(ours.pop('methods'))
    assert len(ours['issued_at']) == len(fernet_issued)
    off = parsed(theirs.pop('expires_at')) - parsed(ours.pop('expires_at'))
    assert abs(off) <= datetime.timedelta(microseconds=1)
    for values in (theirs, ours):
        del values['issued_at']
    assert ours == theirs


def parsed(text):
    return timeutils.normalize_time(timeutils.parse_isotime(text))


VALID = tokens.PREFIX + 'A' * 43


@pytest.mark.parametrize(
    'token_id',
    [
        None,
        '',
        b'',
        VALID.encode(),
        7,
        [VALID],
        VALID[:-1],
        VALID + 'A',
        VALID * 1000,
        VALID + '\n',
        '\n' + VALID,
        VALID[:-1] + 'é',
        VALID[:-1] + '\N{FULLWIDTH LATIN CAPITAL LETTER A}',
        VALID[:-1] + '\0',
        VALID[:-1] + "'",
        VALID[:-1] + '=',
        VALID.upper(),
        'kc2_' + 'A' * 43,
        '0f1e2d3c4b5a69788796a5b4c3d2e1f0',
        'gAAAAAB' + 'x' * 180,  # a Fernet token
    ],
)
def test_what_cannot_be_a_token_costs_no_query(provider, store, token_id):
    with faults.counted(store) as sent:
        with pytest.raises(exception.TokenNotFound) as raised:
            provider.validate_token(token_id)
        assert sent == []
    if isinstance(token_id, str) and len(token_id) > 8:
        assert token_id not in str(raised.value)


@pytest.fixture
def only_tagged(conf):
    conf.set_override('token_key', 'k' * 40, 'cassandra')
    conf.set_override('accept_untagged_ids', False, 'cassandra')
    yield
    for name in ('token_key', 'accept_untagged_ids'):
        conf.clear_override(name, 'cassandra')


def test_what_is_invented_costs_no_query(provider, store, only_tagged):
    token_id, _ = provider.generate_id_and_issued_at(project_token())
    with faults.counted(store) as sent:
        for _ in range(1000):
            invented = tokens.PREFIX + secrets.token_urlsafe(32)
            with pytest.raises(exception.TokenNotFound):
                provider.validate_token(invented)
        assert sent == []
        assert provider.validate_token(token_id)
        assert len(sent) == 1


def test_the_only_datacenter_is_asked_once(provider, store, conf, serving):
    """Also of what another one would be asked for."""
    with faults.counted(store) as sent:
        for datacenter in (store.sessions.get().local_dc, 'elsewhere'):
            with pytest.raises(exception.TokenNotFound):
                provider.validate_token(tokens.IDS.make(conf, datacenter))
    assert sent == [(tokens.GET,)] * 2
    assert store.escalation.there == {}


@settings(parent=quietly, max_examples=300)
@given(
    token_id=st.none()
    | st.text()
    | st.binary()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text().map(lambda text: tokens.PREFIX + text)
)
def test_no_text_but_a_token_is_asked_for(store, token_id):
    provider = tokens.Provider()
    with faults.counted(store) as sent, pytest.raises(exception.TokenNotFound):
        provider.validate_token(token_id)
    assert sent == []


def test_unknown_token(provider, store):
    with faults.counted(store) as sent:
        with pytest.raises(exception.TokenNotFound) as raised:
            provider.validate_token(VALID)
        assert sent == [(tokens.GET,)]
    assert VALID not in str(raised.value)


def test_one_write_to_issue_and_one_read_to_validate(provider, store):
    provider.generate_id_and_issued_at(project_token())  # the setting is read
    with faults.counted(store) as sent:
        token_id, _ = provider.generate_id_and_issued_at(project_token())
        provider.validate_token(token_id)
    assert sent == [(tokens.INSERT,), (tokens.GET,)]


def stored_rows(session, keyspace):
    return list(session.execute(f'SELECT * FROM {keyspace}."token"'))


def test_only_the_hash_is_stored(provider, session, keyspace):
    token_id, _ = provider.generate_id_and_issued_at(project_token())
    secret = token_id.removeprefix(tokens.PREFIX)
    raw = base64.urlsafe_b64decode(secret + '=')
    rows = stored_rows(session, keyspace)
    assert hashlib.sha256(token_id.encode()).digest() in {
        row['id_hash'] for row in rows
    }
    for row in rows:
        for value in row.values():
            text = value if isinstance(value, bytes) else str(value).encode()
            assert secret.encode() not in text
            assert raw not in text


def test_ids_are_256_random_bits(provider):
    made = {
        provider.generate_id_and_issued_at(project_token())[0]
        for _ in range(50)
    }
    assert len(made) == 50
    for token_id in made:
        secret = token_id.removeprefix(tokens.PREFIX)
        assert len(base64.urlsafe_b64decode(secret + '=')) == 32


class TestTokenKey:
    KEY = 'k' * 32

    @pytest.fixture
    def with_key(self, conf):
        def use(key):
            conf.set_override('token_key', key, 'cassandra')

        yield use
        conf.clear_override('token_key', 'cassandra')

    def test_changes_the_hash(self, provider, session, keyspace, with_key):
        with_key(self.KEY)
        token_id, _ = provider.generate_id_and_issued_at(project_token())
        assert provider.validate_token(token_id)
        stored = {row['id_hash'] for row in stored_rows(session, keyspace)}
        plain = hashlib.sha256(token_id.encode()).digest()
        keyed = hmac.digest(self.KEY.encode(), token_id.encode(), 'sha256')
        assert plain not in stored
        assert keyed in stored

    @pytest.mark.parametrize(
        ('made', 'asked'),
        [(None, KEY), (KEY, None), (KEY, 'K' * 32)],
    )
    def test_another_key_finds_nothing(self, provider, with_key, made, asked):
        with_key(made)
        token_id, _ = provider.generate_id_and_issued_at(project_token())
        with_key(asked)
        with pytest.raises(exception.TokenNotFound):
            provider.validate_token(token_id)
        with_key(made)
        assert provider.validate_token(token_id)

    def test_who_writes_the_table_cannot_make_a_token(
        self, provider, session, keyspace, with_key
    ):
        with_key(self.KEY)
        copied, _ = provider.generate_id_and_issued_at(project_token())
        forged = tokens.PREFIX + 'F' * 43
        keyed = hmac.digest(self.KEY.encode(), copied.encode(), 'sha256')
        row = session.execute(
            f'SELECT * FROM {keyspace}."token" WHERE id_hash = %s', (keyed,)
        ).one()
        row['id_hash'] = hashlib.sha256(forged.encode()).digest()
        session.execute(
            f'INSERT INTO {keyspace}."token" ({", ".join(row)}) VALUES'
            f' ({", ".join(["%s"] * len(row))}) USING TTL 60',
            list(row.values()),
        )
        with pytest.raises(exception.TokenNotFound):
            provider.validate_token(forged)


def test_an_expired_token_is_not_written(provider, store, conf):
    window = conf.token.allow_expired_window
    token = project_token(expires_at=in_seconds(-window - 1))
    with faults.counted(store) as sent:
        token_id, issued_at = provider.generate_id_and_issued_at(token)
    assert tokens.INSERT not in {step for steps in sent for step in steps}
    assert issued_at
    with pytest.raises(exception.TokenNotFound):
        provider.validate_token(token_id)


def test_a_token_lives_through_the_window_after_its_expiry(provider):
    # Whether it may still be used is Keystone's to say: ?allow_expired=1.
    token = project_token(expires_at=in_seconds(-60))
    token_id, _ = provider.generate_id_and_issued_at(token)
    assert provider.validate_token(token_id)[-1] == token.expires_at


def test_a_token_is_gone_when_its_time_is_over(provider, conf):
    def make_and_use(life):
        token = project_token(expires_at=in_seconds(life))
        token_id, _ = provider.generate_id_and_issued_at(token)
        provider.validate_token(token_id)
        return token_id

    def there():
        try:
            return provider.validate_token(token_id)
        except exception.TokenNotFound:
            return None

    conf.set_override('allow_expired_window', 0, 'token')
    try:
        token_id = lives.long_enough(make_and_use)
    finally:
        conf.clear_override('allow_expired_window', 'token')
    lives.until_gone(there)
