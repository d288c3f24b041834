# SPDX-License-Identifier: Apache-2.0
"""Which tokens do events stop?  Ours against Keystone's SQL driver.

Random events and tokens over small pools of ids, so that they often meet.
For each token the events that ``list_events(token=...)`` gives must be
exactly those that stop it, each with its latest ``issued_before``, and
``revoke_model.is_revoked`` must agree.

The SQL driver is the oracle for everything that Keystone emits.  Where it is
wrong, or ours is stricter on purpose, a plain model in this file is, and a
test of its own shows the difference:

* events for an OAuth1 access token (SQL revokes tokens without one);
* a domain together with an expiry (SQL loses the domain);
* audit ids, chains and trusts are stopped whatever the clocks say.
"""

import collections
import datetime
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone.models import revoke_model
from keystone.revoke.backends import sql as sql_revoke

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.token import revoke
from tests.contract import sql_oracle

SECOND = datetime.timedelta(seconds=1)
#: All times of the tests lie around this one.
NOW = clock.utcnow().replace(microsecond=0)
EXPIRES = [NOW + 3600 * SECOND, NOW + 3601 * SECOND]

IDS = {
    'audit_id': ['audit-1', 'audit-2', 'audit-3'],
    'audit_chain_id': ['audit-1', 'chain-1', 'chain-2'],
    'trust_id': ['trust-1', 'trust-2'],
    'consumer_id': ['consumer-1', 'consumer-2'],
    'user_id': ['user-1', 'user-2', 'user-3', 'user-4'],
    'project_id': ['project-1', 'project-2'],
    'domain_id': ['domain-1', 'domain-2'],
    'role_id': ['role-1', 'role-2', 'role-3'],
    'access_token_id': ['access-1', 'access-2'],
    'expires_at': EXPIRES,
}
TIMELESS = {'audit_id', 'audit_chain_id', 'trust_id'}

#: What Keystone's managers emit, and what its tests add.
EMITTED = [
    {'user_id'},
    {'project_id'},
    {'trust_id'},
    {'consumer_id'},
    {'audit_id'},
    {'audit_chain_id'},
    {'audit_chain_id', 'project_id'},
    {'audit_chain_id', 'domain_id'},
    {'domain_id'},
    {'role_id'},
    {'expires_at'},
    {'user_id', 'project_id'},
    {'project_id', 'role_id'},
    {'user_id', 'project_id', 'audit_id'},
    {'project_id', 'audit_id'},
    {'user_id', 'expires_at'},
    set(),
]

# Whole seconds are what Keystone writes; the others are allowed.
moments = st.integers(-4, 4).map(lambda halves: NOW + halves * SECOND / 2)
emitted = st.sampled_from(EMITTED)
anything = st.sets(st.sampled_from(sorted(IDS)), max_size=4)


def known_to_sql(names):
    """Whether SQL keeps and compares all of an event's attributes."""
    return 'access_token_id' not in names and not (
        names >= {'domain_id', 'expires_at'}
    )


@st.composite
def events(draw, shapes, late_if_timeless):
    """Draw the arguments of a ``RevokeEvent``."""
    names = draw(shapes)
    values = {name: draw(st.sampled_from(IDS[name])) for name in sorted(names)}
    late = late_if_timeless and names & TIMELESS
    values['issued_before'] = NOW + 60 * SECOND if late else draw(moments)
    values['revoked_at'] = NOW
    return values


def random_tokens(number):
    """Draw lists of what ``build_token_values`` makes of tokens.

    From one drawn number each: drawing every value of thousands of tokens
    would take longer than checking them.
    """

    def make(seed):
        source = random.Random(seed)
        return [random_token(source) for _ in range(number)]

    return st.integers(0, 2**32).map(make)


def random_token(source):
    def maybe(name):
        return source.choice([None, *IDS[name]])

    token = revoke_model.blank_token_data(NOW + source.randint(-2, 2) * SECOND)
    token |= {
        name: maybe(name)
        for name in (
            'audit_chain_id',
            'trust_id',
            'consumer_id',
            'access_token_id',
            'user_id',
            'project_id',
        )
    }
    token['audit_id'] = source.choice(IDS['audit_id'])
    token['expires_at'] = source.choice(EXPIRES)
    token['identity_domain_id'] = maybe('domain_id')
    token['assignment_domain_id'] = maybe('domain_id')
    token['roles'] = source.choices(IDS['role_id'], k=source.randint(0, 2))
    if token['trust_id']:
        token['trustor_id'] = source.choice(IDS['user_id'])
        token['trustee_id'] = source.choice(IDS['user_id'])
    return token


def identity(event):
    """Return what makes two events the same but for their times."""
    names = [*IDS, 'domain_scope_id']
    return tuple((name, getattr(event, name)) for name in names)


def watermarks(found):
    """Return each event's latest ``issued_before``."""
    latest = {}
    for event in found:
        key = identity(event)
        latest[key] = max(
            latest.get(key, event.issued_before), event.issued_before
        )
    return latest


def stops(event, token):
    """The plain model: whether an event stops a token."""
    users = {token['user_id'], token['trustor_id'], token['trustee_id']}
    domains = {token['identity_domain_id'], token['assignment_domain_id']}
    timeless = any(getattr(event, name) is not None for name in TIMELESS)
    return (
        (timeless or event.issued_before >= token['issued_at'])
        and (event.user_id is None or event.user_id in users)
        and (event.domain_id is None or event.domain_id in domains)
        and event.domain_scope_id in (None, token['assignment_domain_id'])
        and (event.role_id is None or event.role_id in token['roles'])
        and all(
            getattr(event, name) in (None, token[name])
            for name in (
                'audit_id',
                'audit_chain_id',
                'trust_id',
                'consumer_id',
                'project_id',
                'access_token_id',
                'expires_at',
            )
        )
    )


@pytest.fixture
def empty_table(store, keyspace):
    """Return a function that empties the table of events."""

    def truncate():
        connection = store.sessions.get()
        connection.session.execute(
            f'TRUNCATE {keyspace}.revocation', timeout=60
        )

    truncate()
    yield truncate
    truncate()


@pytest.fixture
def ours(store, empty_table):
    return revoke.Revoke()


@pytest.fixture
def sql_driver(keyspace):
    with sql_oracle.sqlite(sql_revoke.RevocationEvent):
        yield sql_revoke.Revoke()


def check(ours, token, expected, verdicts):
    """Compare what ours says of a token with the watermarks expected."""
    found = ours.list_events(token=token)
    assert watermarks(found) == expected
    assert len(found) == len(expected)
    revoked = revoke_model.is_revoked(found, token)
    assert revoked == bool(expected)
    verdicts[revoked] += 1


def check_verdicts(verdicts):
    # Thousands of cases, and neither answer so rare that it proves nothing.
    assert sum(verdicts.values()) >= 2500
    assert min(verdicts[True], verdicts[False]) >= 500


several_tokens = random_tokens(32)
quietly = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_stops_the_same_tokens_as_sql(ours, sql_driver, empty_table):
    verdicts = collections.Counter()
    shapes = emitted | anything.filter(known_to_sql)

    @quietly
    @given(
        st.lists(events(shapes, late_if_timeless=True), max_size=8),
        several_tokens,
    )
    def compare(revoked, checked):
        empty_table()
        sql_oracle.empty(sql_revoke.RevocationEvent)
        for values in revoked:
            # Each its own: a driver must not change the event.
            ours.revoke(revoke_model.RevokeEvent(**values))
            sql_driver.revoke(revoke_model.RevokeEvent(**values))
        for token in checked:
            said = [
                event
                for event in sql_driver.list_events(token=token)
                if revoke_model.matches(event, token)
            ]
            check(ours, token, watermarks(said), verdicts)

    compare()
    check_verdicts(verdicts)


def test_stops_exactly_the_tokens_that_events_name(ours, empty_table):
    verdicts = collections.Counter()

    @quietly
    @given(
        st.lists(
            events(emitted | anything, late_if_timeless=False), max_size=8
        ),
        several_tokens,
    )
    def compare(revoked, checked):
        empty_table()
        made = [revoke_model.RevokeEvent(**values) for values in revoked]
        latest = {}
        for event in made:
            ours.revoke(event)
            seen = latest.get(identity(event))
            if seen is None or seen.issued_before < event.issued_before:
                latest[identity(event)] = event
        for token in checked:
            stopping = [e for e in latest.values() if stops(e, token)]
            check(ours, token, watermarks(stopping), verdicts)

    compare()
    check_verdicts(verdicts)


def blank(**values):
    token = revoke_model.blank_token_data(NOW)
    return token | {'roles': [], 'expires_at': EXPIRES[0], **values}


def verdict(driver, event, token):
    driver.revoke(event)
    return revoke_model.is_revoked(driver.list_events(token=token), token)


class TestDeviations:
    """Each place where ours differs from the SQL driver, and how."""

    def test_access_token_stops_only_its_own(self, ours, sql_driver):
        event = revoke_model.RevokeEvent(access_token_id='access-1')
        unrelated = blank(user_id='user-1')
        own = blank(access_token_id='access-1')
        assert verdict(sql_driver, event, unrelated), 'SQL revokes everybody'
        assert not verdict(ours, event, unrelated)
        assert verdict(ours, event, own)

    def test_domain_scope_with_expiry(self, ours, sql_driver):
        event = revoke_model.RevokeEvent(
            domain_id='domain-1', expires_at=EXPIRES[0]
        )
        elsewhere = blank(assignment_domain_id='domain-2')
        there = blank(assignment_domain_id='domain-1')
        assert verdict(sql_driver, event, elsewhere), 'SQL lost the domain'
        assert not verdict(ours, event, elsewhere)
        assert verdict(ours, event, there)

    @pytest.mark.parametrize('name', sorted(TIMELESS))
    def test_no_clock_decides_on_ids_used_once(self, ours, sql_driver, name):
        # A server whose clock is five seconds behind revokes.
        early = {name: IDS[name][0], 'issued_before': NOW - 5 * SECOND}
        token = blank(**{name: IDS[name][0]})
        event = revoke_model.RevokeEvent(**early)
        assert not verdict(sql_driver, event, token), 'SQL lets it live'
        assert verdict(ours, event, token)

    def test_two_equal_events_are_one(self, ours, sql_driver):
        for _ in range(2):
            for driver in (ours, sql_driver):
                driver.revoke(revoke_model.RevokeEvent(user_id='user-1'))
        token = blank(user_id='user-1', issued_at=NOW - SECOND)
        assert len(sql_driver.list_events(token=token)) == 2
        assert len(ours.list_events(token=token)) == 1
