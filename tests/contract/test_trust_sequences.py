# SPDX-License-Identifier: Apache-2.0
"""The same calls on Keystone's SQL trust driver and on ours: equal answers."""

import datetime
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.trust.backends import sql as sql_trust
from oslo_utils import timeutils

from keystone_cassandra_token.drivers import trust
from tests.contract import sql_oracle

USERS = ['user-1', 'user-2']
PROJECTS = ['project-1', 'project-2', None]
#: Minutes from now at which a trust expires; some have.
EXPIRIES = [-5, 10, 60, None]
NUMBERS = st.integers(0, 5)  # which of the trusts made so far

made = st.fixed_dictionaries(
    {
        'trustor_user_id': st.sampled_from(USERS),
        'trustee_user_id': st.sampled_from(USERS),
        'project_id': st.sampled_from(PROJECTS),
        'impersonation': st.booleans(),
        'expires_at': st.sampled_from(EXPIRIES),
        'remaining_uses': st.sampled_from([None, None, 1, 2]),
        'redelegation_count': st.sampled_from([0, 3]),
        'redelegated_trust_id': st.sampled_from([None, 'trust-1']),
        'note': st.text(max_size=5),
    }
)
roles = st.lists(
    st.sampled_from(['member', 'reader', 'admin']), unique=True, max_size=3
).map(lambda names: [{'id': name} for name in names])
calls = st.one_of(
    # Often: the others need something to work on.
    st.tuples(st.just('create'), made, roles),
    st.tuples(st.just('create'), made, roles),
    st.tuples(st.just('create'), made, roles),
    st.tuples(st.just('get'), NUMBERS, st.booleans()),
    st.tuples(st.just('consume'), NUMBERS),
    st.tuples(st.just('delete'), NUMBERS),
    st.tuples(st.just('list')),
    st.tuples(st.just('trustee'), st.sampled_from(USERS)),
    st.tuples(
        st.just('trustor'),
        st.sampled_from(USERS),
        st.sampled_from([None, 'trust-1']),
    ),
    st.tuples(st.just('project'), st.sampled_from(PROJECTS[:2])),
    st.tuples(
        st.just('flush'),
        st.sampled_from(PROJECTS),
        st.sampled_from([*USERS, None]),
        st.sampled_from([*USERS, None]),
        st.sampled_from([0, 30]),
    ),
)


@pytest.fixture
def ours(store):
    return trust.Trust()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(sql_trust.TrustModel, sql_trust.TrustRole):
        yield sql_trust.Trust()


def at(base, minutes):
    delta = minutes and datetime.timedelta(minutes=minutes)
    return base + delta if delta else None


def play(driver, base, ids, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    pick = ids[rest[0] % len(ids)] if name in ON_ONE and ids else 'nobody'
    try:
        if name == 'create':
            values = rest[0] | {
                'expires_at': at(base, rest[0]['expires_at']),
                'id': ids[-1],
            }
            return driver.create_trust(ids[-1], values, rest[1])
        if name == 'get':
            return driver.get_trust(pick, deleted=rest[1])
        if name == 'consume':
            return driver.consume_use(pick)
        if name == 'delete':
            return driver.delete_trust(pick)
        if name == 'list':
            return driver.list_trusts()
        if name == 'trustee':
            return driver.list_trusts_for_trustee(rest[0])
        if name == 'trustor':
            return driver.list_trusts_for_trustor(rest[0], rest[1])
        if name == 'project':
            return driver.delete_trusts_for_project(rest[0])
        return driver.flush_expired_and_soft_deleted_trusts(
            rest[0], rest[1], rest[2], at(base, rest[3]) or base
        )
    except exception.Error as error:
        return type(error)


ON_ONE = ('get', 'consume', 'delete')


def plain(said):
    """Return an answer without what may differ: order, time of deletion."""
    if isinstance(said, list):
        return sorted(
            (plain(entry) for entry in said), key=lambda entry: entry['id']
        )
    if isinstance(said, dict):
        roles = said.get('roles')
        return said | {
            'deleted_at': said['deleted_at'] is not None,
            'roles': roles and sorted(role['id'] for role in roles),
        }
    return said


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    created = 0

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=6, max_size=16))
    def compare(sequence):
        nonlocal created
        empty(store, keyspace)
        sql_oracle.empty(sql_trust.TrustRole, sql_trust.TrustModel)
        base = timeutils.utcnow()
        ids = []
        for call in sequence:
            if call[0] == 'create':
                ids.append(uuid.uuid4().hex)
                created += 1
            answers = [
                plain(play(driver, base, ids, call))
                for driver in (theirs, ours)
            ]
            assert answers[0] == answers[1], call

    compare()
    assert created > 30


def test_what_is_too_long_for_sql_is_too_long_here(ours):
    values = {
        'trustor_user_id': 'u' * 65,
        'trustee_user_id': 'u',
        'impersonation': False,
    }
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_trust(uuid.uuid4().hex, values, [])


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in (
        'trust',
        'trust_use',
        'trust_claim',
        'trust_by_trustor',
        'trust_by_trustee',
        'trust_by_project',
    ):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def test_a_trust_id_is_used_once(ours):
    trust_id = uuid.uuid4().hex
    values = {
        'trustor_user_id': 'u1',
        'trustee_user_id': 'u2',
        'project_id': 'p',
        'impersonation': False,
        'expires_at': timeutils.utcnow() + datetime.timedelta(hours=1),
    }
    ours.create_trust(trust_id, values, [])
    other = values | {'trustee_user_id': 'u3', 'remaining_uses': 1}
    with pytest.raises(exception.Conflict):
        ours.create_trust(trust_id, other, [])
    assert ours.get_trust(trust_id)['trustee_user_id'] == 'u2'
