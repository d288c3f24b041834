# SPDX-License-Identifier: Apache-2.0
"""A process dies between any two requests of a trust method.

A reader then sees the old state or the new one, and doing it again succeeds.
"""

import datetime
import itertools
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.tables import unique
from tests.fault import faults
from tests.fault.generated import (
    DONE,
    Generated,
    World,
    found,
    operation,
    told,
)

MINUTE = datetime.timedelta(minutes=1)


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


LABELS = ('first', 'second', 'third')


class Trusts(World):
    """A trust with three uses, of a project; one that was deleted."""

    kinds = ('trust',)
    hours: int | None = 1

    def __init__(self, store):
        super().__init__(store)
        self.driver = trust.Trust()
        self.values = {
            f'{name}_id': self.id(name)
            for name in ('trustor_user', 'trustee_user', 'project')
        }
        self.end = self.hours and clock.utcnow() + self.hours * 60 * MINUTE
        self.create('first', 'one')
        self.create('deleted', 'three')
        self.driver.delete_trust(self.id('deleted'))

    def create(self, label, trustor):
        """Create one of a trustor: all else is equal."""
        create(self.driver, self.given(trustor), self.id(label))

    def given(self, trustor):
        trustor_id = {'trustor_user_id': self.id(f'trustor {trustor}')}
        return new(**self.values | trustor_id, expires_at=self.end)

    @operation(exception.Conflict, makes='second')
    def create_equal(self):
        self.create('second', 'one')

    @operation(exception.Conflict, makes='second')
    def create_second(self):
        self.create('second', 'two')

    @operation(exception.Conflict, makes='third')
    def another_creates_it(self):
        self.create('third', 'two')

    @operation(repeats=False)
    def use(self):
        self.driver.consume_use(self.id('first'))

    @operation(exception.TrustNotFound)
    def delete(self):
        self.driver.delete_trust(self.id('first'))

    @operation(partly=None)
    def delete_for_project(self):
        self.driver.delete_trusts_for_project(self.id('project'))

    @operation()
    def flush(self):
        self.driver.flush_expired_and_soft_deleted_trusts(
            project_id=self.id('project'), date=clock.utcnow()
        )

    def state(self):
        every = [each['id'] for each in self.driver.list_trusts()]
        of_trustee = self.driver.list_trusts_for_trustee(
            self.id('trustee_user')
        )
        seen = {
            'listed': self.labels(every, False),
            'of the trustee': self.labels(
                (each['id'] for each in of_trustee), False
            ),
        }
        for trustor in ('one', 'two', 'three'):
            listed = self.driver.list_trusts_for_trustor(
                self.id(f'trustor {trustor}')
            )
            seen[f'of {trustor}'] = self.labels(each['id'] for each in listed)
        for label in (*LABELS, 'deleted'):
            one = found(self.driver.get_trust, self.id(label))
            seen[label] = one and (
                one['remaining_uses'],
                one['roles'],
                one['note'],
            )
            was = found(self.driver.get_trust, self.id(label), True)
            seen[f'{label} at all'] = was is not None
        return seen

    def wrong(self):
        """A trust is in all lists or in none, and no two are equal."""
        seen = self.state()
        lists = [seen['listed'], seen['of the trustee']]
        of_each = (seen[f'of {each}'] for each in ('one', 'two', 'three'))
        lists.append(sorted(itertools.chain.from_iterable(of_each)))
        there = sorted(label for label in LABELS if seen[label])
        wrong = [
            f'listed {each}, and there {there}'
            for each in lists
            if each != there
        ]
        return wrong + [
            f'{seen[name]} are equal'
            for name in ('of one', 'of two')
            # As in SQL, null is equal to nothing.
            if len(seen[name]) > 1 and self.hours
        ]

    def probe(self):
        """A trust is in the way of an equal one, also a deleted one."""
        wrong = []
        for trustor, labels in (
            ('one', ['first']),
            ('two', ['second', 'third']),
        ):
            there = any(
                found(self.driver.get_trust, self.id(label), True)
                for label in labels
            )
            said = told(self.create, f'like {trustor}', trustor)
            if said == DONE:
                self.store.run(trust.DELETE, id=self.id(f'like {trustor}'))
            if (said == DONE) is bool(there and self.hours):
                wrong.append(f'{said} to who wants one of {trustor}')
        return wrong


class TestTrusts(Generated):
    world = Trusts


class LastingTrusts(Trusts):
    """Trusts that never expire."""

    hours = None


class TestLastingTrusts(Generated):
    world = LastingTrusts
    test_pairs = None  # they meet as the others do


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
            # What is left can be found by the next flush, but for index rows:
            # nobody minds them.
            if 'trust_use' in left(trust_id, values):
                assert 'trust' in left(trust_id, values), done
            if 'trust' in left(trust_id, values):
                flush((trust_id, values))
                assert left(trust_id, values) == set()
            # And the name is free.
            driver.get_trust(
                create(driver, values | {'expires_at': values['expires_at']}),
                deleted=True,
            )


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
                fault(store, trust.GET_EVERYWHERE, times=2),
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
            with faults.hold(store, trust.CLAIMS.replace_expiring) as second:
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
