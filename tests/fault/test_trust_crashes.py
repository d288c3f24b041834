# SPDX-License-Identifier: Apache-2.0
"""A process dies between any two requests of a trust method.

A reader then sees the old state or the new one, and doing it again succeeds.
"""

import datetime
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.tables import unique
from tests.fault import faults

MINUTE = datetime.timedelta(minutes=1)
FAR = datetime.timedelta(days=400)


@pytest.fixture
def driver(store, monkeypatch):
    # A claim of a process that died can be taken over after a minute.
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))
    return trust.Trust()


@pytest.fixture
def session(store):
    return store.sessions.get().session


@pytest.fixture(autouse=True)
def _few_trusts(session, keyspace):
    # Each look-up lists all trusts.
    session.execute(f'TRUNCATE {keyspace}.trust', timeout=60)


def new(**values):
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'impersonation': True,
        'expires_at': clock.utcnow() + 60 * MINUTE,
        'remaining_uses': 3,
        'note': 'x',
        **values,
    }


def create(driver, values, trust_id=None):
    trust_id = trust_id or uuid.uuid4().hex
    driver.create_trust(trust_id, values, [{'id': 'role'}])
    return trust_id


def lookups(driver, trust_id, values):
    """Return in which of the lists a trust is, and whether it is found."""
    try:
        found = driver.get_trust(trust_id)
    except exception.TrustNotFound:
        found = None
    lists = (
        driver.list_trusts_for_trustor(values['trustor_user_id']),
        driver.list_trusts_for_trustee(values['trustee_user_id']),
        driver.list_trusts(),
    )
    listed = [trust_id in {each['id'] for each in some} for some in lists]
    return found, listed


class TestCreate:
    def test_crash_after_each_request(self, driver, store):
        def prepare():
            return uuid.uuid4().hex, new()

        seen = []
        for done, (trust_id, values) in faults.each_crash(
            store, prepare, lambda made: create(driver, made[1], made[0])
        ):
            found, listed = lookups(driver, trust_id, values)
            # Whole, with its uses and in all lists, or not there.
            assert listed == [found is not None] * 3
            if found:
                assert found['remaining_uses'] == 3
                assert found['roles'] == [{'id': 'role'}]
                assert found['note'] == 'x'
                driver.consume_use(trust_id)
            seen.append((done, found is not None))
            # The user tries again: Keystone makes a new id.
            try:
                again = create(driver, values)
            except exception.Conflict:
                assert found, 'a trust that nobody sees is in the way'
            else:
                assert not found
                assert driver.get_trust(again)['remaining_uses'] == 3
        assert [found for _, found in seen] == sorted(f for _, f in seen)
        assert (seen[0][1], seen[-1][1]) == (False, True)

    @pytest.mark.parametrize(
        'name',
        ['claim', 'use', 'batch', 'confirm'],
    )
    @pytest.mark.parametrize('fault', [faults.fail, faults.lose_reply])
    def test_a_failed_request(self, driver, store, name, fault):
        target = {
            'claim': trust.CLAIMS.insert_expiring,
            'use': trust.INSERT_USE_EXPIRING,
            'batch': trust.INSERT_EXPIRING,
            'confirm': trust.CLAIMS.set_held_expiring,
        }[name]
        values = new()
        trust_id = uuid.uuid4().hex
        with fault(store, target):
            try:
                create(driver, values, trust_id)
                made = True
            except errors.StoreUnavailable:
                made = False
        if fault is faults.lose_reply and name != 'batch':
            assert made, 'a serial read settles it'
        found, listed = lookups(driver, trust_id, values)
        assert (found is not None) == made
        assert listed == [made] * 3
        if not made:
            again = create(driver, values)
            assert driver.get_trust(again)

    def test_index_without_a_trust_is_skipped(self, driver, store):
        values = new()
        trust_id = uuid.uuid4().hex
        with (
            faults.lose_reply(store, trust.INSERT_EXPIRING),
            pytest.raises(errors.StoreUnavailable),
        ):
            create(driver, values, trust_id)
        # The batch was applied, and the trust alone removed again.
        ids = trust.BY_TRUSTOR.ids(store, values['trustor_user_id'])
        assert ids == [trust_id]
        assert lookups(driver, trust_id, values) == (None, [False] * 3)


class TestFlush:
    @pytest.mark.parametrize('uses', [None, 2])
    @pytest.mark.parametrize('by', ['deleted', 'expired'])
    def test_crash_after_each_request(
        self, driver, store, session, keyspace, uses, by
    ):
        def prepare():
            values = new(remaining_uses=uses)
            if by == 'expired':
                values['expires_at'] = clock.utcnow() - MINUTE
            trust_id = create(driver, values)
            if by == 'deleted':
                driver.delete_trust(trust_id)
            return trust_id, values

        def flush(made):
            driver.flush_expired_and_soft_deleted_trusts(
                project_id=made[1]['project_id'], date=clock.utcnow()
            )

        def left(trust_id, values):
            rows = {
                table: session.execute(
                    f'SELECT id FROM {keyspace}.{table} WHERE id = %s',
                    (trust_id,),
                ).one()
                for table in ('trust', 'trust_use')
            }
            for index in (
                trust.BY_TRUSTOR,
                trust.BY_TRUSTEE,
                trust.BY_PROJECT,
            ):
                rows[index.column] = index.ids(store, values[index.column])
            return {name for name, row in rows.items() if row}

        for done, (trust_id, values) in faults.each_crash(
            store, prepare, flush
        ):
            with pytest.raises(exception.TrustNotFound):
                driver.get_trust(trust_id)
            if left(trust_id, values):
                # What is left can be found by the next flush.
                assert 'trust' in left(trust_id, values), done
            flush((trust_id, values))
            assert left(trust_id, values) == set()
            # And the name is free.
            driver.get_trust(
                create(driver, values | {'expires_at': values['expires_at']}),
                deleted=True,
            )


class TestDeleteForProject:
    def test_crash_after_each_request(self, driver, store):
        def prepare():
            project_id = uuid.uuid4().hex
            many = [new(project_id=project_id) for _ in range(3)]
            return project_id, [(create(driver, each), each) for each in many]

        counts = []
        for _, (project_id, made) in faults.each_crash(
            store,
            prepare,
            lambda prepared: driver.delete_trusts_for_project(prepared[0]),
        ):
            states = [lookups(driver, *each) for each in made]
            for found, listed in states:
                assert listed == [found is not None] * 3
            counts.append(sum(found is None for found, _ in states))
            driver.delete_trusts_for_project(project_id)
            for trust_id, values in made:
                assert lookups(driver, trust_id, values) == (None, [False] * 3)
                assert driver.get_trust(trust_id, deleted=True)['deleted_at']
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, 3)


class TestSlowCreator:
    """A creator stalls past the age at which its claim may be taken."""

    @pytest.fixture
    def driver(self, store):
        return trust.Trust()

    @pytest.fixture
    def later(self, monkeypatch):
        """Let the clock go on by more than the age."""
        real = clock.utcnow

        def go_on():
            monkeypatch.setattr(
                clock, 'utcnow', lambda: real() + 2 * unique.STALE_AFTER
            )

        return go_on

    def start(self, driver, values):
        trust_id = uuid.uuid4().hex
        outcome = []

        def run():
            try:
                outcome.append(create(driver, values, trust_id))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return trust_id, thread, outcome

    @pytest.mark.parametrize('where', ['counter', 'batch'])
    def test_loses_to_who_took_over(self, driver, store, later, where):
        values = new()
        target = {
            'counter': trust.INSERT_USE_EXPIRING,
            'batch': trust.INSERT_EXPIRING,
        }[where]
        with faults.hold(store, target) as held:
            slow, thread, outcome = self.start(driver, values)
            assert held.reached.wait(30)
            with pytest.raises(exception.Conflict):
                create(driver, values)  # not yet old enough
            later()
            winner = create(driver, values)
            held.release()
            thread.join(60)
        assert [type(error) for error in outcome] == [exception.Conflict]
        self.check_one_owner(driver, values, winner, slow)

    def test_visible_base_row_is_never_taken_over(self, driver, store, later):
        values = new()
        with faults.hold(store, trust.CLAIMS.set_held_expiring) as held:
            slow, thread, outcome = self.start(driver, values)
            assert held.reached.wait(30)
            later()
            other = uuid.uuid4().hex
            with pytest.raises(exception.Conflict):
                create(driver, values, other)
            held.release()
            thread.join(60)
        assert outcome == [slow]
        self.check_one_owner(driver, values, slow, other)

    @pytest.mark.parametrize('fault', [faults.fail, faults.lose_reply])
    def test_no_answer_on_the_owner_is_no_take_over(
        self, driver, store, later, fault
    ):
        values = new()
        with faults.hold(store, trust.INSERT_EXPIRING) as held:
            slow, thread, outcome = self.start(driver, values)
            assert held.reached.wait(30)
            later()
            other = uuid.uuid4().hex
            with (
                fault(store, trust.GET_EVERYWHERE),
                pytest.raises(errors.StoreUnavailable),
            ):
                create(driver, values, other)
            held.release()
            thread.join(60)
        assert outcome == [slow]
        self.check_one_owner(driver, values, slow, other)

    def test_two_who_take_over_at_once(self, driver, store, later):
        values = new()
        with faults.hold(store, trust.INSERT_EXPIRING) as first:
            slow, thread, outcome = self.start(driver, values)
            assert first.reached.wait(30)
            later()
            with faults.hold(store, trust.CLAIMS.take_over_expiring) as second:
                late, other, ended = self.start(driver, values)
                assert second.reached.wait(30)
                winner = create(driver, values)
                second.release()
                other.join(60)
            first.release()
            thread.join(60)
        for each in (outcome, ended):
            assert [type(error) for error in each] == [exception.Conflict]
        self.check_one_owner(driver, values, winner, slow, late)

    def check_one_owner(self, driver, values, owner, *others):
        found = driver.list_trusts_for_trustor(values['trustor_user_id'])
        assert [each['id'] for each in found] == [owner]
        assert driver.get_trust(owner)['remaining_uses'] == 3
        for other in others:
            with pytest.raises(exception.TrustNotFound):
                driver.get_trust(other, deleted=True)
        key = trust.claim_key({'id': owner, **values})
        assert trust.CLAIMS.owner(driver.db, **key) == owner
        with pytest.raises(exception.Conflict):
            create(driver, values)
