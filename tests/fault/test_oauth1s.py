# SPDX-License-Identifier: Apache-2.0
"""OAuth1 under crashes, lost replies and races: an exchange is made once."""

import datetime
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers import oauth1
from keystone_cassandra_token.drivers.oauth1 import CONSUMERS
from keystone_cassandra_token.tables import reconcile
from keystone_cassandra_token.tables.index import ALL_SHARDS
from tests.contract.damage import fix
from tests.fault import faults
from tests.fault.generated import (
    Generated,
    World,
    found,
    ghosts,
    operation,
)

EXCHANGERS = 8


@pytest.fixture
def driver(store):
    return oauth1.OAuth1()


@pytest.fixture
def aged(monkeypatch):
    """Let all that is there when a run begins be old."""
    monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))


def fresh():
    return uuid.uuid4().hex


def consumer(driver):
    return driver.create_consumer({'id': fresh(), 'secret': 'x'})['id']


def request(driver, consumer_id=None):
    """Return the id of a request token, by default of a new consumer."""
    made = driver.create_request_token(
        consumer_id or consumer(driver), 'project', 600
    )
    return made['id']


def authorized(driver, user_id, consumer_id=None):
    made = request(driver, consumer_id)
    driver.authorize_request_token(made, user_id, ['role'])
    return made


def exchanged(driver, user_id, consumer_id=None):
    made = authorized(driver, user_id, consumer_id)
    return driver.create_access_token(made, 600)['id']


def shown(get, token_id):
    """Return what a call returns, None where it is not found."""
    try:
        return get(token_id)
    except exception.NotFound:
        return None


def owned(driver, user_id):
    """Return the access tokens of a user, in all ways of asking for them."""
    found = driver.list_access_tokens(user_id)
    for each in found:
        assert each.items() <= driver.get_access_token(each['id']).items()
    return [each['id'] for each in found]


def rows(store, consumer_id):
    """Return how many rows there are that list tokens of a consumer."""
    return sum(
        len(
            store.rows(
                index.list,
                Row('id'),
                consumer_id=consumer_id,
                shards=ALL_SHARDS,
            )
        )
        for index in (oauth1.REQUESTS_BY_CONSUMER, oauth1.ACCESS_BY_CONSUMER)
    )


class Tokens(World):
    """A consumer with two request tokens, one authorized, and an access
    token."""

    ages = ()
    kinds = ('request_token', 'access_token')
    life = 600

    def __init__(self, store):
        super().__init__(store)
        self.driver = oauth1.OAuth1()
        self.create('consumer', 'x')
        for label in ('plain', 'authorized', 'used up'):
            self.ask(label)
        for label in ('authorized', 'used up'):
            self.authorize(label, 'user')
        made = self.driver.create_access_token(self.id('used up'), self.life)
        self.name('access', made['id'])

    def create(self, label, secret):
        made = {'id': self.id(label), 'secret': secret}
        self.driver.create_consumer(made)

    def ask(self, label):
        made = self.driver.create_request_token(
            self.id('consumer'), 'project', self.life
        )
        self.name(label, made['id'])

    def authorize(self, label, user):
        self.driver.authorize_request_token(
            self.id(label), self.id(user), ['role']
        )

    @operation(exception.Conflict)
    def create_consumer(self):
        self.create('second', 'one')

    @operation(exception.Conflict)
    def create_same_consumer(self):
        self.create('second', 'two')

    @operation()
    def update_consumer(self):
        self.driver.update_consumer(
            self.id('consumer'), {'description': 'new'}
        )

    @operation(exception.NotFound, partly=None)
    def delete_consumer(self):
        self.driver.delete_consumer(self.id('consumer'))

    @operation(repeats=False)
    def ask_for_one(self):
        self.ask('asked for')

    @operation()
    def authorize_plain(self):
        self.authorize('plain', 'user')

    @operation()
    def authorize_again(self):
        self.authorize('authorized', 'other')

    # Used up or exchanged, and never both anew.
    @operation(
        exception.NotFound, partly=['user'], repeats=False, uses_up=True
    )
    def exchange(self):
        self.driver.create_access_token(self.id('authorized'), self.life)

    @operation(exception.NotFound)
    def delete_access(self):
        self.driver.delete_access_token(self.id('user'), self.id('access'))

    def state(self):
        seen = {}
        for label in ('consumer', 'second'):
            one = found(self.driver.get_consumer_with_secret, self.id(label))
            seen[label] = one and (one['secret'], one['description'])
        for label in ('plain', 'authorized', 'asked for'):
            one = found(self.driver.get_request_token, self.id(label))
            by = one and one['authorizing_user_id']
            seen[label] = one and (by and self.labels([by]), one['role_ids'])
        for label in ('user', 'other'):
            seen[label] = len(owned(self.driver, self.id(label)))
        seen['access'] = bool(
            found(self.driver.get_access_token, self.id('access'))
        )
        return seen

    def left(self):
        consumer = CONSUMERS.find(self.store, self.id('consumer'))
        gone = consumer is None and rows(self.store, self.id('consumer'))
        wrong = ['what lists tokens of who is gone'] if gone else []
        return wrong + ghosts(self, CONSUMERS, ('consumer', 'second'))


class TestTokens(Generated):
    world = Tokens


class LastingTokens(Tokens):
    """What never expires."""

    life = 0


class TestLastingTokens(Generated):
    world = LastingTokens
    test_pairs = None  # they meet as the others do


class TestCrashes:
    def test_create_request_token(self, driver, store):
        """Its id was told to nobody; it goes with its consumer."""
        listed = []
        for _, made in faults.each_crash(
            store,
            lambda: consumer(driver),
            lambda made: request(driver, made),
        ):
            ids = oauth1.REQUESTS_BY_CONSUMER.ids(store, made)
            listed.append(len(ids))
            for each in ids:
                token = shown(driver.get_request_token, each)
                assert token is None or token['verifier'] is None
            driver.delete_consumer(made)
            assert rows(store, made) == 0
            for each in ids:
                assert shown(driver.get_request_token, each) is None
                assert store.one(oauth1.GET, oauth1.REQUEST, id=each) is None
        assert (listed[0], listed[-1]) == (0, 1)

    def test_create_access_token(self, driver, store, aged):
        """Used up, or exchanged, and never both anew."""
        outcomes = []

        def prepare():
            made, user_id = consumer(driver), fresh()
            return authorized(driver, user_id, made), user_id, made

        for _, (made, user_id, of) in faults.each_crash(
            store, prepare, lambda each: driver.create_access_token(each[0], 0)
        ):
            access = owned(driver, user_id)
            usable = shown(driver.get_request_token, made) is not None
            assert len(access) + usable <= 1
            outcomes.append((not usable, len(access)))
            if usable:
                driver.create_access_token(made, 600)
                assert len(owned(driver, user_id)) == 1
            else:
                with pytest.raises(exception.NotFound):
                    driver.create_access_token(made, 600)
                assert owned(driver, user_id) == access
            driver.delete_consumer(of)
            assert owned(driver, user_id) == []
            # What lists a token that never came is nobody's but reconcile's.
            fix(store, oauth1.ACCESS_DERIVED)
            assert rows(store, of) == 0
            assert store.one(oauth1.GET, oauth1.REQUEST, id=made) is None
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == ((False, 0), (True, 1))
        assert (True, 0) in outcomes

    def test_what_came_before_a_crash_goes_with_the_next_call(
        self, driver, store
    ):
        """What was made while a consumer was deleted, then broken off."""
        made, user_id = consumer(driver), fresh()
        left = request(driver, made)
        exchanged(driver, user_id, made)
        assert CONSUMERS.remove(store, made)
        with pytest.raises(exception.NotFound):
            driver.delete_consumer(made)
        assert shown(driver.get_request_token, left) is None
        assert owned(driver, user_id) == []
        assert rows(store, made) == 0


class TestLostReplies:
    """A serial read tells what became of a change."""

    def test_an_exchange_that_another_made(self, driver, store):
        """The reply is lost, and says no."""
        user_id = fresh()
        token = authorized(driver, user_id)
        with (
            faults.lose_reply(
                store, oauth1.EXCHANGE_EXPIRING, times=2
            ) as lost,
            faults.stalled(
                store,
                oauth1.EXCHANGE_EXPIRING,
                lambda: driver.create_access_token(token, 600),
            ) as late,
        ):
            made = driver.create_access_token(token, 600)
        assert lost.fired == 2
        assert type(late.said) is exception.NotFound
        assert owned(driver, user_id) == [made['id']]

    def test_what_is_left_of_an_exchange_fails_nobody(self, driver, store):
        """The request token is used up already."""
        user_id = fresh()
        token = authorized(driver, user_id)
        with faults.fail(store, oauth1.DELETE):
            made = driver.create_access_token(token, 600)
        assert owned(driver, user_id) == [made['id']]
        assert shown(driver.get_request_token, token) is None


class TestRaces:
    def test_of_eight_exchanges_one_gets_it(self, driver):
        user_id = fresh()
        token = authorized(driver, user_id)
        start = threading.Barrier(EXCHANGERS)
        won, refused = [], []

        def exchange():
            start.wait(faults.PATIENCE)
            try:
                won.append(driver.create_access_token(token, 600)['id'])
            except exception.NotFound as error:
                refused.append(error)
            except errors.StoreUnavailable:
                pass  # unknown

        threads = [
            threading.Thread(target=exchange) for _ in range(EXCHANGERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(faults.PATIENCE)
            assert not thread.is_alive()
        assert len(won) <= 1
        assert len(refused) >= EXCHANGERS // 2
        assert owned(driver, user_id) == won

    def test_what_is_authorized_again_is_exchanged_with_its_verifier_alone(
        self, driver, store
    ):
        """Keystone has compared the verifier that was there before."""
        token = authorized(driver, 'user')
        with faults.stalled(
            store,
            oauth1.EXCHANGE_EXPIRING,
            lambda: driver.create_access_token(token, 600),
        ) as late:
            driver.authorize_request_token(token, 'other', [])
        assert type(late.said) is exception.Conflict
        shown_now = driver.get_request_token(token)
        assert shown_now['authorizing_user_id'] == 'other'
        made = driver.create_access_token(token, 600)
        assert owned(driver, 'other') == [made['id']]

    def test_nor_one_whose_removal_failed(self, driver, store):
        """It is there still, used up, when the authorization comes."""
        token = authorized(driver, 'user')
        with (
            faults.stalled(
                store,
                oauth1.AUTHORIZE_EXPIRING,
                lambda: driver.authorize_request_token(token, 'other', []),
            ) as late,
            faults.fail(store, oauth1.DELETE),
        ):
            driver.create_access_token(token, 600)
        assert type(late.said) is exception.NotFound

    @pytest.mark.parametrize(
        'target',
        [
            oauth1.REQUESTS_BY_CONSUMER.insert_expiring,
            oauth1.INSERT_EXPIRING,
        ],
        ids=['index', 'token'],
    )
    def test_a_consumer_is_deleted_while_a_request_token_comes(
        self, driver, store, target
    ):
        made = consumer(driver)
        sent = []

        def remember(statements, send):
            sent.extend(statements)
            return send()

        with (
            faults.intercepted(store, remember),
            faults.stalled(
                store, target, lambda: request(driver, made)
            ) as late,
        ):
            driver.delete_consumer(made)
        assert oauth1.INSERT_EXPIRING in sent
        assert type(late.said) is exception.NotFound
        assert rows(store, made) == 0
        assert not any(
            each['consumer_id'] == made for each in requests_in(store)
        )


def requests_in(store):
    session = store.sessions.get().session
    keyspace = store.conf.cassandra.keyspace
    return session.execute(f'SELECT * FROM {keyspace}.request_token')


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides(driver, store, seconds):
    made, user_id = consumer(driver), fresh()
    token = authorized(driver, user_id, made)
    with faults.clock_off_by(store, seconds):
        access = driver.create_access_token(token, 600)['id']
    assert shown(driver.get_request_token, token) is None
    driver.delete_access_token(user_id, access)
    assert shown(driver.get_access_token, access) is None
    assert owned(driver, user_id) == []
