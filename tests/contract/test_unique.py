# SPDX-License-Identifier: Apache-2.0
"""Claims of unique names, at both of their serial levels."""

import datetime
import uuid

import pytest

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.tables import unique
from keystone_cassandra_token.tables.unique import Claims, NameTaken
from tests.fault import faults


# Of the same table, but never of the same row: the levels do not mix.
@pytest.fixture(params=[Operation.LWT_GLOBAL, Operation.LWT_LOCAL])
def claims(request):
    return Claims('trust_claim', *trust.CLAIMS.key, operation=request.param)


@pytest.fixture
def key():
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': 'trustee',
        'project_id': 'project',
        'impersonation': True,
        'expires_at': 1,
    }


@pytest.fixture
def later(monkeypatch):
    """Let all claims made so far be old enough to be taken over."""
    real = clock.utcnow

    def go_on():
        ahead = unique.STALE_AFTER + datetime.timedelta(seconds=1)
        monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)

    return go_on


def absent(owner):
    return False


def state(store, claims, key):
    row = store.one(claims.settle, claims.row, **key)
    return row and (row['owner'], row['state'])


def claim(store, claims, key, owner, exists=absent, ttl=600):
    claims.claim(store, owner, exists=exists, ttl=ttl, **key)


@pytest.mark.parametrize('ttl', [None, 600])
def test_claim_hold_release(store, claims, key, ttl):
    claim(store, claims, key, 'a', ttl=ttl)
    assert state(store, claims, key) == ('a', 'pending')
    claim(store, claims, key, 'a', ttl=ttl)  # mine already
    claims.confirm(store, 'a', ttl=ttl, **key)
    assert state(store, claims, key) == ('a', 'held')
    assert claims.owner(store, **key) == 'a'
    claim(store, claims, key, 'a', ttl=ttl)
    with pytest.raises(NameTaken) as raised:
        claim(store, claims, key, 'b', ttl=ttl)
    assert raised.value.owner == 'a'
    claims.release(store, 'b', **key)  # not b's to free
    assert state(store, claims, key) == ('a', 'held')
    claims.release(store, 'a', **key)
    assert state(store, claims, key) is None
    assert claims.owner(store, **key) is None
    claims.release(store, 'a', **key)  # again
    claim(store, claims, key, 'b', ttl=ttl)
    assert state(store, claims, key) == ('b', 'pending')


@pytest.mark.parametrize('ttl', [None, 600])
def test_take_over_of_an_old_pending_claim(store, claims, key, later, ttl):
    claim(store, claims, key, 'a', ttl=ttl)
    with pytest.raises(NameTaken):
        claim(store, claims, key, 'b', ttl=ttl)  # too young
    later()
    asked = []
    with pytest.raises(NameTaken):
        claim(
            store,
            claims,
            key,
            'b',
            exists=lambda owner: asked.append(owner) or True,
            ttl=ttl,
        )
    assert asked == ['a']
    claim(store, claims, key, 'b', ttl=ttl)
    assert state(store, claims, key) == ('b', 'pending')
    with pytest.raises(NameTaken):
        claims.confirm(store, 'a', ttl=ttl, **key)
    claims.release(store, 'a', **key)
    assert state(store, claims, key) == ('b', 'pending')


def test_a_held_claim_is_never_taken_over(store, claims, key, later):
    claim(store, claims, key, 'a')
    claims.confirm(store, 'a', **key, ttl=600)
    later()
    with pytest.raises(NameTaken):
        claim(store, claims, key, 'b')
    assert state(store, claims, key) == ('a', 'held')


def test_not_while_nobody_knows_of_the_owner(store, claims, key, later):
    claim(store, claims, key, 'a')
    later()

    def away(owner):
        raise errors.StoreUnavailable('a region is away')

    with pytest.raises(errors.StoreUnavailable):
        claim(store, claims, key, 'b', exists=away)
    assert state(store, claims, key) == ('a', 'pending')


class TestLostReply:
    """Cassandra did it and nobody heard: a serial read settles it."""

    def test_claim(self, store, claims, key):
        with faults.lose_reply(store, claims.insert_expiring):
            claim(store, claims, key, 'a')
        assert state(store, claims, key) == ('a', 'pending')

    def test_claim_that_somebody_else_has(self, store, claims, key):
        claim(store, claims, key, 'a')
        with (
            faults.lose_reply(store, claims.insert_expiring),
            pytest.raises(NameTaken) as raised,
        ):
            claim(store, claims, key, 'b')
        assert raised.value.owner == 'a'

    def test_claim_that_never_arrived(self, store, claims, key):
        with (
            faults.fail(store, claims.insert_expiring, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            claim(store, claims, key, 'a')
        assert state(store, claims, key) is None

    def test_what_did_not_arrive_is_sent_again(self, store, claims, key):
        with faults.fail(store, claims.insert_expiring):
            claim(store, claims, key, 'a')
        with faults.fail(store, claims.set_held_expiring):
            claims.confirm(store, 'a', ttl=600, **key)
        assert state(store, claims, key) == ('a', 'held')
        with faults.fail(store, claims.free):
            claims.release(store, 'a', **key)
        assert state(store, claims, key) is None

    def test_take_over(self, store, claims, key, later):
        claim(store, claims, key, 'a')
        later()
        with faults.lose_reply(store, claims.take_over_expiring):
            claim(store, claims, key, 'b')
        assert state(store, claims, key) == ('b', 'pending')

    def test_hold(self, store, claims, key):
        claim(store, claims, key, 'a')
        with faults.lose_reply(store, claims.set_held_expiring):
            claims.confirm(store, 'a', ttl=600, **key)
        assert state(store, claims, key) == ('a', 'held')

    def test_hold_that_never_arrived(self, store, claims, key):
        claim(store, claims, key, 'a')
        with (
            faults.fail(store, claims.set_held_expiring, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            claims.confirm(store, 'a', ttl=600, **key)
        assert state(store, claims, key) == ('a', 'pending')

    def test_release(self, store, claims, key):
        claim(store, claims, key, 'a')
        with faults.lose_reply(store, claims.free):
            claims.release(store, 'a', **key)
        assert state(store, claims, key) is None

    def test_release_that_never_arrived(self, store, claims, key):
        claim(store, claims, key, 'a')
        with (
            faults.fail(store, claims.free, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            claims.release(store, 'a', **key)
        assert state(store, claims, key) == ('a', 'pending')


class TestClaimed:
    """The whole of it around a body that writes the base row."""

    class BaseRow:
        def __init__(self):
            self.there = set()

        def exists(self, owner):
            return owner in self.there

    def run(self, store, claims, key, base_row, owner, then=None):
        with claims.claimed(
            store,
            owner,
            exists=base_row.exists,
            undo=lambda: base_row.there.discard(owner),
            ttl=600,
            **key,
        ):
            base_row.there.add(owner)
            if then:
                then()

    def test_crash_after_each_request(self, store, claims, key, later):

        def prepare():
            base_row = self.BaseRow()
            return base_row, key | {'trustor_user_id': uuid.uuid4().hex}

        def run(prepared):
            base_row, fresh = prepared
            self.run(store, claims, fresh, base_row, 'a')

        made = []
        for _, (base_row, fresh) in faults.each_crash(store, prepare, run):
            made.append((base_row, fresh))
        later()
        for base_row, fresh in made:
            before = set(base_row.there)
            try:
                self.run(store, claims, fresh, base_row, 'b')
            except NameTaken:
                assert base_row.there == before == {'a'}
            else:
                assert before == set()
                assert base_row.there == {'b'}

    def test_the_body_fails(self, store, claims, key):
        base_row = self.BaseRow()

        def fail():
            raise KeyError

        with pytest.raises(KeyError):
            self.run(store, claims, key, base_row, 'a', then=fail)
        assert base_row.there == set()
        assert state(store, claims, key) is None

    def test_lost_between_body_and_hold(self, store, claims, key, later):
        base_row = self.BaseRow()

        def stall():
            later()
            base_row.there.discard('a')  # not yet written
            self.run(store, claims, key, base_row, 'b')
            base_row.there.add('a')

        with pytest.raises(NameTaken) as raised:
            self.run(store, claims, key, base_row, 'a', then=stall)
        assert raised.value.owner == 'b'
        assert base_row.there == {'b'}
        assert state(store, claims, key) == ('b', 'held')
