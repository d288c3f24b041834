# SPDX-License-Identifier: Apache-2.0
"""One limited trust, many processes: never used more often than allowed."""

import collections
import datetime
import multiprocessing
import queue
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import trust
from tests.fault import faults

PROCESSES = 8
USES = 30

# Forked after first use of the session: each child must open its own.
processes = multiprocessing.get_context('fork')


@pytest.fixture
def driver(store):
    return trust.Trust()


@pytest.fixture
def limited(driver):
    """Return a function that makes a trust with some uses."""

    def make(uses, expires=True):
        ahead = clock.utcnow() + datetime.timedelta(hours=1)
        made = {
            'trustor_user_id': uuid.uuid4().hex,
            'trustee_user_id': uuid.uuid4().hex,
            'project_id': uuid.uuid4().hex,
            'impersonation': False,
            'expires_at': ahead if expires else None,
            'remaining_uses': uses,
        }
        trust_id = uuid.uuid4().hex
        driver.create_trust(trust_id, made, [{'id': 'role'}])
        return trust_id

    return make


def consume(trust_id, start, results, lose_every):
    """Use a trust until it is used up; report what happened."""
    driver = trust.Trust()
    counts = collections.Counter()
    try:
        driver.list_trusts_for_trustor('nobody')  # connects
        start.wait(60)
        while True:
            try:
                if lose_every and sum(counts.values()) % lose_every == 0:
                    with faults.lose_reply(driver.db, trust.CONSUME_EXPIRING):
                        driver.consume_use(trust_id)
                    counts['settled'] += 1
                else:
                    driver.consume_use(trust_id)
                counts['used'] += 1
            except errors.OutcomeUnknown:
                counts['unknown'] += 1
            except exception.TrustConsumeMaximumAttempt:
                counts['beaten'] += 1
            except exception.TrustUseLimitReached:
                break
        results.put(counts)
    except BaseException as error:
        results.put(repr(error))
        raise


def race(trust_id, lose_every=0):
    """Return the sums of what all processes report."""
    start = processes.Barrier(PROCESSES)
    results = processes.Queue()
    children = [
        processes.Process(
            target=consume, args=(trust_id, start, results, lose_every)
        )
        for _ in range(PROCESSES)
    ]
    total = collections.Counter()
    try:
        for child in children:
            child.start()
        for _ in children:
            try:
                counts = results.get(timeout=120)
            except queue.Empty:
                pytest.fail('a process did not come to its end')
            assert isinstance(counts, collections.Counter), counts
            total += counts
        for child in children:
            child.join(60)
            assert child.exitcode == 0
    finally:
        for child in children:
            child.kill()
            child.join()
    return total


def test_exactly_as_often_as_allowed(driver, limited):
    trust_id = limited(USES)
    total = race(trust_id)
    if total['unknown']:
        # Cassandra itself timed out: a use may be lost, never doubled.
        assert total['used'] <= USES <= total['used'] + total['unknown']
    else:
        assert total['used'] == USES
    used_up = driver.get_trust(trust_id, deleted=True)
    assert used_up['remaining_uses'] == 0
    with pytest.raises(exception.TrustNotFound):
        driver.get_trust(trust_id)


def test_never_more_often_while_replies_are_lost(driver, limited):
    trust_id = limited(USES)
    total = race(trust_id, lose_every=3)
    assert total['settled'] + total['unknown'] > 0
    assert total['used'] <= USES <= total['used'] + total['unknown']
    assert driver.get_trust(trust_id, deleted=True)['remaining_uses'] == 0


class TestLostReply:
    @pytest.mark.parametrize('expires', [True, False])
    def test_the_use_counts_once(self, driver, store, limited, expires):
        trust_id = limited(2, expires)
        target = trust.CONSUME_EXPIRING if expires else trust.CONSUME
        with faults.lose_reply(store, target):
            driver.consume_use(trust_id)
        assert driver.get_trust(trust_id)['remaining_uses'] == 1

    def test_never_arrived_is_tried_again(self, driver, store, limited):
        trust_id = limited(2)
        with faults.fail(store, trust.CONSUME_EXPIRING):
            driver.consume_use(trust_id)
        assert driver.get_trust(trust_id)['remaining_uses'] == 1

    def test_the_last_use(self, driver, store, limited):
        trust_id = limited(1)
        with faults.lose_reply(store, trust.CONSUME_EXPIRING):
            driver.consume_use(trust_id)
        with pytest.raises(exception.TrustUseLimitReached):
            driver.consume_use(trust_id)

    def test_nobody_can_tell_is_503_and_not_a_second_use(
        self, driver, store, limited
    ):
        trust_id = limited(3)

        class Overtaken(faults.LostReply):
            """The answer is lost, and somebody else used the trust since."""

            def result(self):
                self._future.result()
                trust.Trust.consume_use(driver, trust_id)
                return super().result()

        fired = []

        def action(statements, send):
            future = send()
            if statements == (trust.CONSUME_EXPIRING,) and not fired:
                fired.append(True)
                return Overtaken(future)
            return future

        with (
            faults.intercepted(store, action),
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.consume_use(trust_id)
        assert fired
        assert driver.get_trust(trust_id)['remaining_uses'] == 1

    def test_settling_fails_too(self, driver, store, limited):
        trust_id = limited(2)
        with (
            faults.lose_reply(store, trust.CONSUME_EXPIRING),
            faults.fail(store, trust.SETTLE_USE, times=2),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.consume_use(trust_id)
        assert driver.get_trust(trust_id)['remaining_uses'] == 1

    def test_counter_of_a_new_trust(self, driver, store, limited):
        with faults.lose_reply(store, trust.INSERT_USE_EXPIRING):
            trust_id = limited(2)
        assert driver.get_trust(trust_id)['remaining_uses'] == 2

    def test_counter_of_a_new_trust_not_written(self, driver, store, limited):
        with (
            faults.fail(store, trust.INSERT_USE_EXPIRING, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            limited(2)


def test_without_its_counter_a_trust_cannot_be_used(
    driver, store, limited, keyspace
):
    trust_id = limited(2)
    store.sessions.get().session.execute(
        f'DELETE FROM {keyspace}.trust_use WHERE id = %s IF EXISTS',
        (trust_id,),
    )
    with pytest.raises(exception.TrustUseLimitReached):
        driver.consume_use(trust_id)
    with pytest.raises(exception.TrustNotFound):
        driver.get_trust(trust_id)


def test_a_deleted_trust_gives_no_more_uses(driver, store, limited):
    trust_id = limited(5)
    driver.delete_trust(trust_id)
    with pytest.raises(exception.TrustNotFound):
        driver.consume_use(trust_id)
