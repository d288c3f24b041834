# SPDX-License-Identifier: Apache-2.0
"""OAuth1: what the driver promises, and equal answers as with SQL."""

import copy
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.oauth1.backends import base
from keystone.oauth1.backends import sql as sql_oauth1
from oslo_db import exception as db_exception
from oslo_utils import fixture as time_fixture

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import oauth1
from tests.contract import lives, sql_oracle, ttls
from tests.contract.calls import call, record
from tests.fault import faults

MODELS = (
    sql_oauth1.AccessToken,
    sql_oauth1.RequestToken,
    sql_oauth1.Consumer,
)
CONSUMERS = ['consumer-1', 'consumer-2']
USERS = ['user-1', 'user-2']
TOO_LONG = 'x' * 65
#: What a driver makes up, by what it is for.
RANDOM = ('id', 'request_secret', 'access_secret', 'verifier')

#: Where SQL's driver leaves the answer to its database.
REFUSED = {
    # A consumer's id, and who has authorized a request token.
    db_exception.DBDuplicateEntry: exception.Conflict,
    db_exception.DBReferenceError: exception.NotFound,
    db_exception.DBError: exception.Unauthorized,
}

consumer_id = st.sampled_from([*CONSUMERS, CONSUMERS[0]])
user_id = st.sampled_from(USERS)
#: One of the tokens that were made, the last ones most often.
token = st.sampled_from([0, 0, 0, 1, 1, 2, 5])
duration = st.sampled_from([0, -1, 10, 3600])
consumer = {
    'description': st.sampled_from([None, '', 'Text', TOO_LONG]),
    'secret': st.just('secret'),
    'note': st.sampled_from(['x', None, {'a': [1]}]),
    'extra': st.just('dropped'),
}
changes = record(consumer | {'id': st.just('ignored')})
calls = st.one_of(
    *[call('create_consumer', consumer_id, record(consumer, 'secret'))] * 2,
    *[call('update_consumer', consumer_id, changes)] * 2,
    call('get_consumer', consumer_id),
    call('get_consumer_with_secret', consumer_id),
    call('list_consumers'),
    call('delete_consumer', consumer_id),
    *[
        call(
            'create_request_token',
            consumer_id,
            st.sampled_from(['project', 'project', TOO_LONG]),
            duration,
        )
    ]
    * 4,
    call('get_request_token', token),
    *[
        call(
            'authorize_request_token',
            token,
            st.sampled_from([*USERS * 2, TOO_LONG]),
            st.lists(st.sampled_from(['one', 'two']), max_size=2),
        )
    ]
    * 4,
    *[call('create_access_token', token, duration)] * 4,
    *[call('get_access_token', token)] * 2,
    *[call('list_access_tokens', user_id)] * 2,
    call('delete_access_token', user_id, token),
    # Not so long that Cassandra would refuse what SQL keeps.
    call('wait', st.sampled_from([1, 11, 3601])),
)
#: So that there is something to authorize and to exchange.
BEGINNING = [
    ('create_consumer', CONSUMERS[0], {'secret': 'secret'}),
    ('create_request_token', CONSUMERS[0], 'project', 0),
    ('authorize_request_token', 0, USERS[0], ['one']),
    ('create_access_token', 0, 3600),
    ('create_request_token', CONSUMERS[0], 'project', 3600),
]


class Player:
    """A driver, and the ids of the tokens that it has made."""

    def __init__(self, driver):
        self.driver = driver
        self._made = ['none']

    def play(self, each):
        """Make one call; return what it said, or the exception's class."""
        name, *rest = copy.deepcopy(each)
        if name == 'create_consumer':
            rest = [rest[1] | {'id': rest[0]}]
        if 'token' in name:
            rest = [self._token(name, n, a) for n, a in enumerate(rest)]
        try:
            said = getattr(self.driver, name)(*rest)
        except (exception.Error, db_exception.DBError) as error:
            return REFUSED.get(type(error), type(error))
        if name in ('create_request_token', 'create_access_token'):
            self._made.append(said['id'])
        if isinstance(said, list):
            assert type(said) is list
            return sorted(map(self._told, said), key=lambda one: one['id'])
        return said and self._told(said)

    def _token(self, name, number, argument):
        """Return the id of a token where its number is given."""
        at = {'create_request_token': None, 'delete_access_token': 1}
        if number != at.get(name, 0) or not isinstance(argument, int):
            return argument
        return self._made[-1 - argument % len(self._made)]

    def _told(self, said):
        """Return an answer with the number of a token instead of its id."""
        told = dict(said)
        if told['id'] in self._made:
            told['id'] = str(self._made.index(told['id']))
        for name in told.keys() & {'request_secret', 'access_secret'}:
            assert uuid.UUID(told[name])
            told[name] = 'secret'
        if told.get('verifier'):
            assert set(told['verifier']) <= set(base.VERIFIER_CHARS)
            told['verifier'] = 'x' * len(told['verifier'])
        return told


@pytest.fixture
def driver(store):
    return oauth1.OAuth1()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_oauth1.OAuth1()


def test_sequences_give_equal_answers(driver, theirs):
    seen = set()

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=10, max_size=35))
    def compare(sequence):
        for each in driver.list_consumers():
            driver.delete_consumer(each['id'])
        sql_oracle.empty(*MODELS)
        players = Player(theirs), Player(driver)
        with time_fixture.TimeFixture() as now:
            for each in BEGINNING + sequence:
                if each[0] == 'wait':
                    now.advance_time_seconds(each[1])
                    continue
                expected, answer = (player.play(each) for player in players)
                assert answer == expected, each
                seen.add((each[0], isinstance(expected, type) and expected))

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 11
    assert {said for _, said in seen if said} == {
        exception.Conflict,
        exception.NotFound,
        exception.StringLengthExceeded,
        exception.Unauthorized,
    }


def make_consumer(driver):
    made = {'id': uuid.uuid4().hex, 'secret': 'secret'}
    return driver.create_consumer(made)['id']


def make_request(driver, duration=600, **more):
    """Return a request token of a new consumer."""
    consumer = more.get('consumer_id') or make_consumer(driver)
    return driver.create_request_token(consumer, 'project', duration)['id']


def make_authorized(driver, duration=600, user_id='user', **more):
    """Return a request token that a user has authorized."""
    made = make_request(driver, duration, **more)
    driver.authorize_request_token(made, user_id, ['role'])
    return made


class TestLife:
    """Tokens expire with all their columns; so late that no call misses it."""

    @pytest.fixture
    def life(self, conf, store, keyspace):
        """A function that returns column -> TTL of a token."""
        session = store.sessions.get().session

        def of(table, token_id):
            return ttls.ttls(session, keyspace, table, {'id': token_id})

        of.columns = lambda table: ttls.columns(session, keyspace, table)
        of.longer = conf.token.expiration + conf.token.allow_expired_window
        return of

    @pytest.mark.parametrize('seconds', [600, 3600])
    def test_a_request_token(self, driver, life, seconds):
        made = make_request(driver, seconds)
        found = life('request_token', made)
        assert sorted(found) == [
            'consumer_id',
            'expires_at',
            'request_secret',
            'requested_project_id',
        ]
        ttls.check(found, seconds + life.longer)

    def test_one_that_was_authorized(self, driver, life):
        made = make_authorized(driver)
        found = life('request_token', made)
        assert {'verifier', 'authorizing_user_id', 'role_ids'} <= found.keys()
        ttls.check(found, 600 + life.longer)

    def test_one_that_was_used_up(self, driver, store, life):
        """As it is for a moment, and stays after a crash."""
        made = make_authorized(driver)
        with faults.crash(store, after=2):
            driver.create_access_token(made, 60)
        found = life('request_token', made)
        assert sorted(found) == life.columns('request_token')
        ttls.check(found, 600 + life.longer)

    @pytest.mark.parametrize('seconds', [600, 3600])
    def test_an_access_token(self, driver, life, seconds):
        made = driver.create_access_token(make_authorized(driver), seconds)
        found = life('access_token', made['id'])
        assert sorted(found) == life.columns('access_token')
        ttls.check(found, seconds + life.longer)

    def test_without_an_end_they_stay(self, driver, life):
        request = make_authorized(driver, 0)
        found = life('request_token', request)
        assert set(found.values()) == {None}
        made = driver.create_access_token(request, 0)
        assert made['expires_at'] is None
        assert set(life('access_token', made['id']).values()) == {None}

    def test_nothing_of_them_is_left(
        self, driver, store, keyspace, monkeypatch
    ):
        """Not in the tables that list them either."""
        consumer_id = make_consumer(driver)
        session = store.sessions.get().session

        def make(life):
            monkeypatch.setattr(clock, 'ttl_until', lambda end, extra: life)
            make_request(driver, consumer_id=consumer_id)
            make_authorized(driver, consumer_id=consumer_id)
            driver.create_access_token(
                make_authorized(driver, consumer_id=consumer_id), 600
            )
            monkeypatch.undo()
            if not listed():
                raise exception.NotFound

        def listed():
            return [
                made
                for made in driver.list_access_tokens('user')
                if made['consumer_id'] == consumer_id
            ]

        def left():
            return [
                row
                for table in TOKEN_TABLES
                for row in session.execute(f'SELECT * FROM {keyspace}.{table}')
                if consumer_id in row.values()
            ]

        lives.long_enough(make)
        lives.until_gone(left)
        assert not listed()

    def test_one_without_life_left_is_authorized_by_nobody(
        self, driver, monkeypatch
    ):
        request = make_request(driver)
        monkeypatch.setattr(clock, 'ttl_until', lambda end, extra: 0)
        with pytest.raises(exception.NotFound):
            driver.authorize_request_token(request, 'user', [])
        monkeypatch.undo()
        assert driver.get_request_token(request)['verifier'] is None


TOKEN_TABLES = (
    'request_token',
    'request_token_by_consumer',
    'access_token',
    'access_token_by_consumer',
)


def test_a_request_token_is_exchanged_once(driver):
    made = make_authorized(driver)
    driver.create_access_token(made, 600)
    with pytest.raises(exception.NotFound):
        driver.create_access_token(made, 600)
    with pytest.raises(exception.NotFound):
        driver.authorize_request_token(made, 'user', [])


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('get_consumer', ()),
        ('get_request_token', ()),
        ('get_access_token', ()),
        ('authorize_request_token', ('user', [])),
        ('create_access_token', (0,)),
    ],
)
def test_an_empty_id_is_nobodys(driver, name, arguments):
    with pytest.raises(exception.NotFound):
        getattr(driver, name)('', *arguments)


def test_what_is_shown_costs_one_read(driver, store):
    request = make_authorized(driver)
    access = driver.create_access_token(make_authorized(driver), 600)
    with faults.counted(store) as sent:
        driver.get_request_token(request)
        driver.get_access_token(access['id'])
        driver.list_consumers()
    assert sent == [
        (oauth1.GET,),
        (oauth1.ACCESS_TOKENS.get,),
        (oauth1.CONSUMERS.get_all,),
    ]
