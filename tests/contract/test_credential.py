# SPDX-License-Identifier: Apache-2.0
"""Credentials: what the driver promises, and equal answers as with SQL."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.common.driver_hints import Hints
from keystone.credential.backends import sql as sql_credential

from keystone_cassandra_token.drivers import credential
from tests.contract import sql_oracle
from tests.fault import faults

USERS = ['user-1', 'user-2']
PROJECTS = ['project-1', 'project-2', None]
TYPES = ['ec2', 'totp', 'cert']
IDS = [f'credential-{number}' for number in range(4)]

values = st.fixed_dictionaries(
    {
        'user_id': st.sampled_from(USERS),
        'project_id': st.sampled_from(PROJECTS),
        'type': st.sampled_from(TYPES),
        'encrypted_blob': st.text(max_size=5).filter(
            lambda text: '\0' not in text
        ),
        'key_hash': st.sampled_from(['one', 'two']),
    },
    optional={
        'note': st.sampled_from(['x', None, {'a': [1]}]),
        'extra': st.just('dropped'),
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        'user_id': st.sampled_from(USERS),
        'project_id': st.sampled_from(PROJECTS),
        'type': st.sampled_from(TYPES),
        'encrypted_blob': st.sampled_from(['', 'other']),
        'key_hash': st.just('three'),
        'note': st.sampled_from(['y', None]),
        'more': st.booleans(),
    },
)
filters = st.lists(
    st.sampled_from(
        [
            ('user_id', USERS[0], 'equals'),
            ('project_id', PROJECTS[0], 'equals'),
            ('type', TYPES[0], 'equals'),
            ('type', 'C', 'startswith'),
            ('key_hash', 'w', 'contains'),
            ('note', 'x', 'equals'),
        ]
    ),
    max_size=2,
    unique_by=lambda entry: entry[0],
)
some_id = st.sampled_from(IDS)
calls = st.one_of(
    st.tuples(st.just('create'), some_id, values),
    st.tuples(st.just('create'), some_id, values),
    st.tuples(st.just('update'), some_id, changes),
    st.tuples(st.just('get'), some_id),
    st.tuples(st.just('delete'), some_id),
    st.tuples(
        st.just('user'),
        st.sampled_from(USERS),
        st.sampled_from([*TYPES, None]),
    ),
    st.tuples(st.just('list'), filters, st.sampled_from([None, 1, 2, 10])),
    st.tuples(st.just('delete_user'), st.sampled_from(USERS)),
    st.tuples(st.just('delete_project'), st.sampled_from(PROJECTS[:2])),
)


@pytest.fixture
def ours(store):
    return credential.Credential()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(sql_credential.CredentialModel):
        yield sql_credential.Credential()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    try:
        if name == 'create':
            made = rest[1] | {'id': rest[0]}
            return driver.create_credential(rest[0], made)
        if name == 'update':
            return driver.update_credential(rest[0], rest[1])
        if name == 'get':
            return driver.get_credential(rest[0])
        if name == 'delete':
            return driver.delete_credential(rest[0])
        if name == 'user':
            return by_id(driver.list_credentials_for_user(*rest))
        if name == 'list':
            return listed(driver, *rest)
        if name == 'delete_user':
            return driver.delete_credentials_for_user(rest[0])
        return driver.delete_credentials_for_project(rest[0])
    except exception.Error as error:
        return type(error)


def listed(driver, wanted, limit):
    hints = Hints()
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if limit:
        hints.set_limit(limit)
    found = driver.list_credentials(hints)
    left = [entry['name'] for entry in hints.filters]
    if hints.limit and hints.limit['truncated']:
        # Which ones are left out is anybody's choice.
        return len(found), left, True
    return by_id(found), left, False


def by_id(found):
    assert type(found) is list
    return sorted(found, key=lambda each: each['id'])


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    seen = set()

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=8, max_size=20))
    def compare(sequence):
        empty(store, keyspace)
        sql_oracle.empty(sql_credential.CredentialModel)
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            seen.add((call[0], expected is exception.CredentialNotFound))
            seen.add((call[0], expected is exception.Conflict))

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 6
    assert len({name for name, failed in seen if failed}) > 1


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in (
        'credential',
        'credential_by_user',
        'credential_by_project',
        'credential_by_type',
    ):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'user_id': uuid.uuid4().hex,
        'project_id': None,
        'type': 'ec2',
        'encrypted_blob': 'secret',
        'key_hash': 'hash',
        **more,
    }


def test_to_get_one_is_one_read(ours, store):
    made = new()
    ours.create_credential(made['id'], made)
    with faults.counted(store) as sent:
        assert ours.get_credential(made['id']) == made
    assert sent == [(credential.CREDENTIALS.get,)]


def test_a_blob_of_bytes_is_shown_as_text(ours):
    # Keystone's providers of encryption return bytes.
    made = new(encrypted_blob=b'secret')
    created = ours.create_credential(made['id'], made)
    assert created['encrypted_blob'] == 'secret'
    changes = {'encrypted_blob': b'other'}
    assert ours.update_credential(made['id'], changes) == ours.get_credential(
        made['id']
    )
    assert ours.get_credential(made['id'])['encrypted_blob'] == 'other'


@pytest.mark.parametrize(
    ('name', 'longest'),
    [
        ('id', 64),
        ('user_id', 64),
        ('project_id', 64),
        ('type', 255),
        ('key_hash', 64),
    ],
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    made = new(**{name: 'x' * (longest + 1)})
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_credential(made['id'], made)


def test_a_limited_list_reads_no_more_than_it_needs(ours, store):
    for _ in range(5):
        made = new()
        ours.create_credential(made['id'], made)
    hints = Hints()
    hints.set_limit(2)
    assert len(ours.list_credentials(hints)) == 2
    assert hints.limit['truncated']


def test_what_a_change_left_of_a_deleted_one_is_none(ours, store, keyspace):
    """So it looks where one datacenter deletes and another changes it."""
    made = uuid.uuid4().hex
    session = store.sessions.get().session
    session.execute(
        f"UPDATE {keyspace}.credential SET type = 'cert' WHERE id = %s",
        (made,),
    )
    found = ours.list_credentials(Hints())
    assert made not in {each['id'] for each in found}
