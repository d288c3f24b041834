# SPDX-License-Identifier: Apache-2.0
"""Application credentials: promises, and equal answers as with SQL."""

import datetime
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.application_credential.backends import sql as sql_credential
from keystone.common.driver_hints import Hints
from oslo_utils import timeutils

from keystone_cassandra_token.drivers import application_credential
from keystone_cassandra_token.drivers.application_credential import CREDENTIALS
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (
    sql_credential.ApplicationCredentialRoleModel,
    sql_credential.ApplicationCredentialAccessRuleModel,
    sql_credential.ApplicationCredentialModel,
    sql_credential.AccessRuleModel,
)
USERS = ['user-1', 'user-2']
PROJECTS = ['project-1', 'project-2']
NAMES = ['one', 'two', 'three']
#: Minutes from now at which one expires; some have.
EXPIRIES = [-5, 60, None]
NUMBERS = st.integers(0, 5)

rules = st.lists(
    st.fixed_dictionaries(
        {
            'id': st.sampled_from(['rule-1', 'rule-2', 'rule-3']),
            'service': st.just('compute'),
            'path': st.sampled_from(['/a', '/b']),
            'method': st.just('GET'),
        }
    ),
    max_size=2,
    unique_by=(lambda rule: rule['id'], lambda rule: rule['path']),
)
values = st.fixed_dictionaries(
    {
        'name': st.sampled_from(NAMES),
        'user_id': st.sampled_from(USERS),
        'project_id': st.sampled_from(PROJECTS),
        'expires_at': st.sampled_from(EXPIRIES),
        'description': st.sampled_from(['x', None]),
        'unrestricted': st.booleans(),
        'system': st.sampled_from([None, 'all']),
    }
)
calls = st.one_of(
    st.tuples(st.just('create'), values, st.none() | rules),
    st.tuples(st.just('create'), values, st.none() | rules),
    st.tuples(st.just('create'), values, st.none() | rules),
    st.tuples(st.just('get'), NUMBERS),
    st.tuples(st.just('authenticate'), NUMBERS, st.booleans()),
    st.tuples(st.just('delete'), NUMBERS),
    st.tuples(
        st.just('list'),
        st.sampled_from(USERS),
        st.sampled_from([None, ('name', 'one'), ('project_id', 'project-1')]),
    ),
    st.tuples(st.just('delete_user'), st.sampled_from(USERS)),
    st.tuples(
        st.just('delete_project'),
        st.sampled_from(USERS),
        st.sampled_from(PROJECTS),
    ),
    st.tuples(
        st.just('get_rule'),
        st.sampled_from(['rule-1', 'rule-2']),
        st.sampled_from([*USERS, None]),
    ),
    st.tuples(st.just('list_rules'), st.sampled_from(USERS)),
    st.tuples(
        st.just('delete_rule'),
        st.sampled_from(['rule-1', 'rule-2']),
        st.sampled_from([*USERS, None]),
    ),
)


@pytest.fixture
def ours(store):
    return application_credential.ApplicationCredential()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_credential.ApplicationCredential()


def play(driver, base, ids, call):
    name, *rest = call
    pick = ids[rest[0] % len(ids)] if ids and rest[0] in range(6) else 'no'
    try:
        if name == 'create':
            minutes = rest[0]['expires_at']
            made = rest[0] | {
                'id': ids[-1],
                'secret': f'secret of {ids[-1]}',
                'expires_at': minutes
                and base + datetime.timedelta(minutes=minutes),
            }
            return driver.create_application_credential(
                made, [{'id': 'role'}], rest[1]
            )
        if name == 'get':
            return driver.get_application_credential(pick)
        if name == 'authenticate':
            secret = f'secret of {pick}' if rest[1] else 'wrong'
            return driver.authenticate(pick, secret)
        if name == 'delete':
            return driver.delete_application_credential(pick)
        if name == 'list':
            hints = Hints()
            if rest[1]:
                hints.add_filter(*rest[1])
            return driver.list_application_credentials_for_user(rest[0], hints)
        if name == 'delete_user':
            driver.delete_application_credentials_for_user(rest[0])
            return driver.delete_access_rules_for_user(rest[0])
        if name == 'delete_project':
            return driver.delete_application_credentials_for_user_on_project(
                *rest
            )
        if name == 'get_rule':
            return driver.get_access_rule(*rest)
        if name == 'list_rules':
            return driver.list_access_rules_for_user(rest[0], Hints())
        return driver.delete_access_rule(*rest)
    except (exception.Error, AssertionError) as error:
        return type(error)


def plain(said):
    """Return an answer without what may differ: order, salt of the hash."""
    if isinstance(said, list):
        return sorted((plain(each) for each in said), key=lambda x: x['id'])
    if isinstance(said, dict) and 'secret_hash' in said:
        said = said | {'secret_hash': bool(said['secret_hash'])}
        if 'access_rules' in said:
            said['access_rules'] = plain(said['access_rules'])
    return said


def test_a_role_is_named_once(ours, theirs):
    for driver in (ours, theirs):
        made = {
            'id': uuid.uuid4().hex,
            'name': 'twice',
            'user_id': uuid.uuid4().hex,
            'project_id': PROJECTS[0],
            'secret': 'secret',
        }
        rule = {
            'id': uuid.uuid4().hex,
            'service': 'compute',
            'path': '/a',
            'method': 'GET',
        }
        for access_rules in (None, [rule]):
            with pytest.raises(exception.Conflict):
                driver.create_application_credential(
                    made, [{'id': 'role'}, {'id': 'role'}], access_rules
                )
        user = made['user_id'], Hints()
        assert driver.list_application_credentials_for_user(*user) == []
        assert driver.list_access_rules_for_user(*user) == []


@pytest.mark.parametrize('missing', ['service', 'path', 'method'])
def test_a_rule_has_all_parts(ours, missing):
    """Keystone's schema asks for none of them; in SQL it is a KeyError."""
    whole = {'service': 'compute', 'path': '/a', 'method': 'GET'}
    user_id = uuid.uuid4().hex
    made = {
        'id': uuid.uuid4().hex,
        'name': 'part',
        'user_id': user_id,
        'project_id': PROJECTS[0],
        'secret': 'secret',
    }
    rules = [whole | {'id': uuid.uuid4().hex} for _ in range(2)]
    del rules[1][missing]
    with pytest.raises(exception.ValidationError, match=missing):
        ours.create_application_credential(made, [{'id': 'role'}], rules)
    # Nor is the other rule made.
    assert ours.list_access_rules_for_user(user_id, Hints()) == []


def test_sequences_give_equal_answers(ours, theirs, store, keyspace, conf):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=8, max_size=16))
    def compare(sequence):
        empty(ours)
        sql_oracle.empty(*MODELS)
        base = timeutils.utcnow()
        ids = []
        for call in sequence:
            if call[0] == 'create':
                ids.append(uuid.uuid4().hex)
            expected, answer = (
                plain(play(each, base, ids, call)) for each in (theirs, ours)
            )
            assert answer == expected, call
            seen.add((call[0], isinstance(expected, type)))

    conf.set_override('password_hash_rounds', 4, 'identity')
    compare()
    conf.clear_override('password_hash_rounds', 'identity')
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 8
    assert len({name for name, failed in seen if failed}) > 2


def empty(driver):
    for user in USERS:
        driver.delete_application_credentials_for_user(user)
        driver.delete_access_rules_for_user(user)


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'secret': 'secret',
        'user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'expires_at': None,
        **more,
    }


def make(driver, access_rules=None, **more):
    made = new(**more)
    driver.create_application_credential(
        made, [{'id': 'b'}, {'id': 'a'}], access_rules
    )
    return made


def rule(**more):
    return {
        'id': uuid.uuid4().hex,
        'service': 'compute',
        'path': f'/{uuid.uuid4().hex}',
        'method': 'GET',
        **more,
    }


def names(driver, user_id):
    found = driver.list_application_credentials_for_user(user_id, Hints())
    return sorted(each['name'] for each in found)


def test_to_authenticate_is_one_read(ours, store):
    made = make(ours, [rule(), rule()])
    with faults.counted(store) as sent:
        ours.authenticate(made['id'], 'secret')
    assert sent == [(CREDENTIALS.entity.get,)]


def test_two_of_a_user_are_two(ours):
    first = make(ours)
    second = make(ours, user_id=first['user_id'])
    assert names(ours, first['user_id']) == sorted(
        (first['name'], second['name'])
    )


def test_the_secret_is_nowhere_in_clear(ours, store, keyspace):
    made = make(ours, secret='a secret to look for')
    session = store.sessions.get().session
    for table in ('application_credential', 'application_credential_claim'):
        rows = session.execute(f'SELECT * FROM {keyspace}.{table}')
        assert 'a secret to look for' not in str(list(rows))
    ours.authenticate(made['id'], 'a secret to look for')


def test_all_that_expires_has_a_ttl(ours, store, keyspace, conf):
    hour = datetime.timedelta(hours=1)
    made = make(ours, expires_at=timeutils.utcnow() + hour)
    least = 3600 + conf.cassandra.application_credential_retention - 60
    session = store.sessions.get().session
    for table, columns, where in (
        (
            'application_credential',
            'name, secret_hash, user_id, project_id, expires_at, roles,'
            ' incarnation, born, stamps',
            'id',
        ),
        (
            'application_credential_claim',
            'owner, stamp, state, claimed_at',
            None,
        ),
    ):
        shown = ', '.join(
            f'TTL({name}) AS {name}' for name in columns.split(', ')
        )
        row = session.execute(
            f'SELECT {shown} FROM {keyspace}.{table} WHERE '
            + ('id = %s' if where else 'user_id = %s AND folded_name = %s'),
            (made['id'],) if where else (made['user_id'], made['name']),
        ).one()
        for name, ttl in row.items():
            assert ttl is not None, name
            assert least < ttl <= least + 60, name


def test_names_are_folded_as_the_keyspace_says(ours):
    made = make(ours, name='Ärger')
    with pytest.raises(exception.Conflict):
        make(ours, user_id=made['user_id'], name='äRGER')
    assert names(ours, made['user_id']) == ['Ärger']


def test_an_id_is_used_once(ours):
    made = make(ours)
    for name in (made['name'], uuid.uuid4().hex):
        with pytest.raises(exception.Conflict):
            ours.create_application_credential(made | {'name': name}, [])
    assert names(ours, made['user_id']) == [made['name']]
    # The name is still taken by the first.
    with pytest.raises(exception.Conflict):
        make(ours, user_id=made['user_id'], name=made['name'])


class TestAccessRules:
    def test_somebody_elses_is_not_found(self, ours):
        mine = rule()
        owner = make(ours, [mine])
        with pytest.raises(exception.AccessRuleNotFound):
            make(ours, [mine])
        with pytest.raises(exception.AccessRuleNotFound):
            ours.get_access_rule(mine['id'], user_id='another')
        with pytest.raises(exception.AccessRuleNotFound):
            ours.delete_access_rule(mine['id'], user_id='another')
        assert ours.get_access_rule(mine['id'], owner['user_id']) == mine

    def test_equal_ones_are_shared(self, ours):
        first = rule()
        made = make(ours, [first])
        again = first | {'id': uuid.uuid4().hex}
        other = make(ours, [again], user_id=made['user_id'])
        found = ours.get_application_credential(other['id'])
        assert found['access_rules'] == [first]
        assert ours.list_access_rules_for_user(made['user_id'], Hints()) == [
            first
        ]

    def test_one_in_use_stays(self, ours):
        used = rule()
        made = make(ours, [used])
        with pytest.raises(exception.ForbiddenNotSecurity):
            ours.delete_access_rule(used['id'])
        ours.delete_application_credential(made['id'])
        ours.delete_access_rule(used['id'])
        assert ours.list_access_rules_for_user(made['user_id'], Hints()) == []

    @pytest.mark.parametrize(
        ('name', 'longest'),
        [('id', 64), ('service', 64), ('path', 128), ('method', 16)],
    )
    def test_what_is_too_long_for_sql(self, ours, name, longest):
        with pytest.raises(exception.StringLengthExceeded):
            make(ours, [rule(**{name: 'x' * (longest + 1)})])


@pytest.mark.parametrize(
    ('name', 'longest'),
    [
        ('id', 64),
        ('name', 255),
        ('user_id', 64),
        ('project_id', 64),
        ('system', 64),
    ],
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    with pytest.raises(exception.StringLengthExceeded):
        make(ours, **{name: 'x' * (longest + 1)})
