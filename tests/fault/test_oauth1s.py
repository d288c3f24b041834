# SPDX-License-Identifier: Apache-2.0
"""OAuth1 under crashes, lost replies and races: an exchange is made once."""

import contextlib
import datetime
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.drivers import oauth1
from keystone_cassandra_token.drivers.oauth1 import ACCESS_TOKENS, CONSUMERS
from keystone_cassandra_token.tables import reconcile
from keystone_cassandra_token.tables.index import ALL_SHARDS
from tests.contract.damage import fix
from tests.fault import faults

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

    def test_authorize_request_token(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: request(driver),
            lambda made: driver.authorize_request_token(made, 'user', []),
        ):
            token = driver.get_request_token(made)
            outcomes.append(token['verifier'] is not None)
            assert (token['authorizing_user_id'] == 'user') is outcomes[-1]
            assert (token['role_ids'] == '[]') is outcomes[-1]
            driver.authorize_request_token(made, 'other', ['role'])
            made = driver.create_access_token(made, 600)
            assert made['authorizing_user_id'] == 'other'
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

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

    def test_delete_access_token(self, driver, store, aged):
        user_id, of = fresh(), consumer(driver)
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: exchanged(driver, user_id, of),
            lambda made: driver.delete_access_token(user_id, made),
        ):
            outcomes.append(owned(driver, user_id) == [made])
            if outcomes[-1]:
                driver.delete_access_token(user_id, made)
            assert owned(driver, user_id) == []
            with pytest.raises(exception.NotFound):
                driver.delete_access_token(user_id, made)
            fix(store, oauth1.ACCESS_DERIVED)
            assert rows(store, of) == 0
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    def test_delete_consumer(self, driver, store):
        def prepare():
            made, user_id = consumer(driver), fresh()
            requests = [request(driver, made), request(driver, made)]
            exchanged(driver, user_id, made)
            return made, user_id, requests

        outcomes = []
        for _, (made, user_id, requests) in faults.each_crash(
            store, prepare, lambda each: driver.delete_consumer(each[0])
        ):
            outcomes.append(shown(driver.get_consumer, made) is not None)
            if not outcomes[-1]:
                assert owned(driver, user_id) == []
            # The same call again deletes what is left of it.
            with contextlib.suppress(exception.NotFound):
                driver.delete_consumer(made)
            assert shown(driver.get_consumer, made) is None
            assert owned(driver, user_id) == []
            for each in requests:
                assert shown(driver.get_request_token, each) is None
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

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

    def test_of_what_is_made(self, driver, store):
        user_id = fresh()
        with faults.lose_reply(store, CONSUMERS.insert):
            made = consumer(driver)
        with faults.lose_reply(store, oauth1.INSERT_EXPIRING):
            token = request(driver, made)
        with faults.lose_reply(store, oauth1.AUTHORIZE_EXPIRING):
            said = driver.authorize_request_token(token, user_id, ['role'])
        assert driver.get_request_token(token) == said
        with faults.lose_reply(store, oauth1.EXCHANGE_EXPIRING):
            access = driver.create_access_token(token, 600)
        assert owned(driver, user_id) == [access['id']]
        token = authorized(driver, user_id, made)
        with (
            faults.lose_reply(store, ACCESS_TOKENS.insert_expiring),
            faults.lose_reply(store, oauth1.DELETE),
        ):
            driver.create_access_token(token, 600)
        assert len(owned(driver, user_id)) == 2
        assert store.one(oauth1.GET, oauth1.REQUEST, id=token) is None
        assert rows(store, made) == 2

    def test_of_what_never_expires(self, driver, store):
        made, user_id = consumer(driver), fresh()
        with faults.lose_reply(store, oauth1.INSERT):
            token = driver.create_request_token(made, 'project', 0)['id']
        with faults.lose_reply(store, oauth1.AUTHORIZE):
            driver.authorize_request_token(token, user_id, [])
        with (
            faults.lose_reply(store, oauth1.EXCHANGE),
            faults.lose_reply(store, ACCESS_TOKENS.insert),
        ):
            access = driver.create_access_token(token, 0)
        assert owned(driver, user_id) == [access['id']]

    def test_of_what_is_deleted(self, driver, store):
        made, user_id = consumer(driver), fresh()
        access = exchanged(driver, user_id, made)
        with faults.lose_reply(store, ACCESS_TOKENS.delete):
            driver.delete_access_token(user_id, access)
        assert owned(driver, user_id) == []
        token = request(driver, made)
        with (
            faults.lose_reply(store, oauth1.DELETE),
            faults.lose_reply(store, CONSUMERS.delete),
        ):
            driver.delete_consumer(made)
        assert shown(driver.get_consumer, made) is None
        assert shown(driver.get_request_token, token) is None

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

    def test_what_was_not_done_is_told(self, driver, store):
        user_id = fresh()
        made = consumer(driver)
        for target, call in (
            (oauth1.INSERT_EXPIRING, lambda: request(driver, made)),
            (
                oauth1.AUTHORIZE_EXPIRING,
                lambda: authorized(driver, user_id, made),
            ),
            (
                oauth1.EXCHANGE_EXPIRING,
                lambda: exchanged(driver, user_id, made),
            ),
        ):
            with (
                faults.fail(store, target),
                pytest.raises(errors.OutcomeUnknown),
            ):
                call()
        assert owned(driver, user_id) == []

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

    def test_of_two_authorizations_the_later_one_is_exchanged(
        self, driver, store
    ):
        """What was authorized since it was read is not what was read."""
        early, later = fresh(), fresh()
        token = authorized(driver, early)
        with faults.stalled(
            store,
            oauth1.EXCHANGE_EXPIRING,
            lambda: driver.create_access_token(token, 600),
        ) as late:
            driver.authorize_request_token(token, later, [])
        assert isinstance(late.said, exception.NotFound)
        assert owned(driver, early) == []
        driver.create_access_token(token, 600)
        assert len(owned(driver, later)) == 1

    def test_one_that_is_used_up_is_not_authorized_again(self, driver, store):
        token = authorized(driver, 'user')
        with faults.stalled(
            store,
            oauth1.AUTHORIZE_EXPIRING,
            lambda: driver.authorize_request_token(token, 'other', []),
        ) as late:
            driver.create_access_token(token, 600)
        assert type(late.said) is exception.NotFound
        assert store.one(oauth1.GET, oauth1.REQUEST, id=token) is None

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

    @pytest.mark.parametrize('step', ['exchange', 'removal'])
    def test_nor_while_it_is_being_exchanged(self, driver, store, step):
        token = authorized(driver, 'user')
        target = {
            'exchange': ACCESS_TOKENS.insert_expiring,
            'removal': oauth1.DELETE,
        }[step]
        with faults.stalled(
            store, target, lambda: driver.create_access_token(token, 600)
        ) as late:
            for call in (
                lambda: driver.authorize_request_token(token, 'other', []),
                lambda: driver.create_access_token(token, 600),
            ):
                with pytest.raises(exception.NotFound):
                    call()
        assert late.said['authorizing_user_id'] == 'user'

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

    @pytest.mark.parametrize(
        'target',
        [
            oauth1.EXCHANGE_EXPIRING,
            oauth1.ACCESS_BY_CONSUMER.insert_expiring,
            ACCESS_TOKENS.insert_expiring,
        ],
        ids=['exchange', 'index', 'token'],
    )
    def test_a_consumer_is_deleted_while_an_access_token_comes(
        self, driver, store, target
    ):
        made, user_id = consumer(driver), fresh()
        token = authorized(driver, user_id, made)
        with faults.stalled(
            store, target, lambda: driver.create_access_token(token, 600)
        ) as late:
            driver.delete_consumer(made)
        assert type(late.said) is exception.NotFound
        assert owned(driver, user_id) == []
        assert shown(driver.get_request_token, token) is None
        assert rows(store, made) == 0

    def test_tokens_that_come_while_a_consumer_is_deleted_go_too(
        self, driver, store
    ):
        made, user_id = consumer(driver), fresh()
        with faults.stalled(
            store, CONSUMERS.delete, lambda: driver.delete_consumer(made)
        ) as late:
            token = request(driver, made)
            exchanged(driver, user_id, made)
        assert late.said is None
        assert shown(driver.get_request_token, token) is None
        assert owned(driver, user_id) == []
        assert rows(store, made) == 0

    def test_an_update_never_brings_a_deleted_consumer_back(
        self, driver, store
    ):
        made = consumer(driver)
        with faults.stalled(
            store,
            CONSUMERS.update,
            lambda: driver.update_consumer(made, {'description': 'late'}),
        ) as late:
            driver.delete_consumer(made)
        assert type(late.said) is exception.NotFound
        assert shown(driver.get_consumer, made) is None

    def test_one_of_two_creators_of_a_consumer_wins(self, driver, store):
        made = {'id': fresh(), 'secret': 'late'}
        with faults.stalled(
            store, CONSUMERS.insert, lambda: driver.create_consumer(made)
        ) as late:
            driver.create_consumer(made | {'secret': 'early'})
        assert type(late.said) is exception.Conflict
        found = driver.get_consumer_with_secret(made['id'])
        assert found['secret'] == 'early'


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
