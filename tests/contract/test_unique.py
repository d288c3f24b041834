# SPDX-License-Identifier: Apache-2.0
"""Claims of unique names, at both of their serial levels."""

import datetime
import uuid

import cassandra
import pytest

from keystone_cassandra_token.db import clock, cql, deadline, errors
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
    """Let claims made so far be old enough to be taken over."""
    real = clock.utcnow

    def go_on():
        ahead = unique.STALE_AFTER + datetime.timedelta(seconds=1)
        monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)

    return go_on


class Owners:
    """Who has the name, told without base rows."""

    def __init__(self, *there):
        self.there = set(there)
        self.fenced = []

    def has(self, db, owner, key):
        return owner in self.there

    def fence(self, db, owner):
        self.fenced.append(owner)


def owner(store, claims, key):
    row = store.one(claims.settle, claims.row, **key)
    return row and row['owner']


def take(store, claims, key, by, owners=None, ttl=600):
    return claims.take(store, by, key, owners or Owners(), ttl)


@pytest.mark.parametrize('ttl', [None, 600])
def test_take_and_give_up(store, claims, key, ttl):
    first = take(store, claims, key, 'a', ttl=ttl)
    assert not first.shared
    assert claims.owner(store, **key) == 'a'
    assert claims.find(store, 'a', key).stamp == first.stamp
    assert claims.find(store, 'b', key) is None
    with pytest.raises(NameTaken) as raised:
        take(store, claims, key, 'b', ttl=ttl)
    assert raised.value.owner == 'a'
    claims.give_up(store, first)
    assert owner(store, claims, key) is None
    claims.give_up(store, first)  # again
    take(store, claims, key, 'b', ttl=ttl)
    assert owner(store, claims, key) == 'b'
    claims.give_up(store, first)  # not a's to free
    assert owner(store, claims, key) == 'b'


def test_all_columns_expire_together(store, claims, key, later):
    take(store, claims, key, 'a', ttl=100)
    later()
    take(store, claims, key, 'b', ttl=600)
    rows = store.sessions.get().session.execute(
        'SELECT TTL(owner), TTL(stamp), TTL(claimed_at), TTL(state) FROM'
        f' {store.conf.cassandra.keyspace}.trust_claim WHERE'
        f" trustor_user_id = '{key['trustor_user_id']}' ALLOW FILTERING"
    )
    (left,) = {frozenset(row.values()) for row in rows}
    assert len(left) == 1
    assert max(left) > 500


def test_an_attempt_of_the_same_owner_shares_it(store, claims, key):
    first = take(store, claims, key, 'a')
    second = take(store, claims, key, 'a')
    assert second.shared
    claims.give_up(store, first)  # the second one relies on it
    assert owner(store, claims, key) == 'a'
    with pytest.raises(NameTaken):
        claims.renew(store, first)
    renewed = claims.renew(store, second)
    with pytest.raises(NameTaken):
        claims.renew(store, second)
    claims.give_up(store, renewed)
    assert owner(store, claims, key) is None


@pytest.mark.parametrize('ttl', [None, 600])
def test_an_old_claim_is_taken_over_behind_a_fence(
    store, claims, key, later, ttl
):
    first = take(store, claims, key, 'a', ttl=ttl)
    nobody = Owners()
    with pytest.raises(NameTaken):
        take(store, claims, key, 'b', nobody, ttl=ttl)  # too young
    assert not nobody.fenced
    later()
    with pytest.raises(NameTaken):
        take(store, claims, key, 'b', Owners('a'), ttl=ttl)
    second = take(store, claims, key, 'b', nobody, ttl=ttl)
    assert nobody.fenced == ['a']
    assert not second.shared
    with pytest.raises(NameTaken):
        claims.renew(store, first)
    claims.give_up(store, first)
    assert owner(store, claims, key) == 'b'


def test_what_the_owner_got_before_the_fence_counts(store, claims, key, later):
    take(store, claims, key, 'a')
    later()

    class Late(Owners):
        def fence(self, db, owner):
            self.there.add(owner)

    with pytest.raises(NameTaken):
        take(store, claims, key, 'b', Late())
    assert owner(store, claims, key) == 'a'


@pytest.mark.parametrize('asked', ['has', 'fence'])
def test_not_while_a_region_cannot_be_asked(
    store, claims, key, later, asked, monkeypatch
):
    take(store, claims, key, 'a')
    later()

    def away(*args):
        raise errors.StoreUnavailable('a region is away')

    owners = Owners()
    monkeypatch.setattr(owners, asked, away)
    with pytest.raises(errors.StoreUnavailable):
        take(store, claims, key, 'b', owners)
    assert owner(store, claims, key) == 'a'


@pytest.mark.parametrize('state', ['pending', 'held'])
def test_a_claim_of_a_server_of_an_older_version(
    store, claims, key, later, state
):
    """It has no stamp."""
    names = ', '.join(key)
    markers = ', '.join(f':{name}' for name in key)
    former = claims.insert.cql.replace(' :stamp,', '').replace(' stamp,', '')
    assert names in former
    assert markers in former
    write = {
        Operation.LWT_GLOBAL: cql.lwt_global,
        Operation.LWT_LOCAL: cql.lwt_local,
    }[claims.insert.operation]
    former = write(former.replace("'held'", f"'{state}'"))
    old = clock.to_micros(clock.utcnow())
    assert store.cas(former, owner='a', claimed_at=old, **key)
    claim = claims.find(store, 'a', key)
    assert claim.stamp is None
    with pytest.raises(NameTaken):
        take(store, claims, key, 'b')
    shared = take(store, claims, key, 'a')
    assert shared.shared
    claims.give_up(store, claim)  # it has a stamp by now
    assert owner(store, claims, key) == 'a'
    claims.give_up(store, shared)
    assert store.cas(former, owner='a', claimed_at=old, **key)
    claims.give_up(store, claim)
    assert owner(store, claims, key) is None
    assert store.cas(former, owner='a', claimed_at=old, **key)
    later()
    take(store, claims, key, 'b')
    assert owner(store, claims, key) == 'b'


def test_what_can_be_left_leaves_a_request_its_time(store, claims, key):
    """As where other datacenters do not answer: no time-out takes it all."""
    made = take(store, claims, key, 'a')
    left = []

    def action(statements, send):
        if claims.free in statements:
            left.append(deadline.remaining(0))
            raise cassandra.OperationTimedOut
        return send()

    with faults.intercepted(store, action), deadline.within(3600):
        claims.give_up(store, made)
        assert deadline.remaining(0) > unique.GIVE_UP_WITHIN
    assert left
    assert max(left) <= unique.GIVE_UP_WITHIN
    # A command has all the time that it needs.
    left.clear()
    with faults.intercepted(store, action):
        claims.give_up(store, made)
    assert set(left) == {None}


class TestLostReply:
    """Cassandra did it and nobody heard: a serial read settles it."""

    def test_take(self, store, claims, key):
        with faults.lose_reply(store, claims.insert_expiring):
            made = take(store, claims, key, 'a')
        assert not made.shared
        assert owner(store, claims, key) == 'a'

    def test_take_what_somebody_else_has(self, store, claims, key):
        take(store, claims, key, 'a')
        with (
            faults.lose_reply(store, claims.insert_expiring),
            pytest.raises(NameTaken) as raised,
        ):
            take(store, claims, key, 'b')
        assert raised.value.owner == 'a'

    def test_take_that_never_arrived(self, store, claims, key):
        with (
            faults.fail(store, claims.insert_expiring, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            take(store, claims, key, 'a')
        assert owner(store, claims, key) is None

    def test_what_did_not_arrive_is_sent_again(self, store, claims, key):
        with faults.fail(store, claims.insert_expiring):
            made = take(store, claims, key, 'a')
        with faults.fail(store, claims.replace_expiring):
            made = claims.renew(store, made)
        with faults.fail(store, claims.free):
            claims.give_up(store, made)
        assert owner(store, claims, key) is None

    def test_take_over(self, store, claims, key, later):
        take(store, claims, key, 'a')
        later()
        with faults.lose_reply(store, claims.replace_expiring):
            made = take(store, claims, key, 'b')
        assert owner(store, claims, key) == 'b'
        claims.renew(store, made)

    def test_renew(self, store, claims, key):
        made = take(store, claims, key, 'a')
        with faults.lose_reply(store, claims.replace_expiring):
            made = claims.renew(store, made)
        claims.renew(store, made)

    def test_renew_that_never_arrived(self, store, claims, key):
        made = take(store, claims, key, 'a')
        with (
            faults.fail(store, claims.replace_expiring, times=2),
            pytest.raises(errors.OutcomeUnknown),
        ):
            claims.renew(store, made)
        claims.renew(store, made)

    def test_give_up(self, store, claims, key):
        made = take(store, claims, key, 'a')
        with faults.lose_reply(store, claims.free):
            claims.give_up(store, made)
        assert owner(store, claims, key) is None

    def test_give_up_that_never_arrived(self, store, claims, key, later):
        made = take(store, claims, key, 'a')
        with faults.fail(store, claims.free, times=2):
            claims.give_up(store, made)
        assert owner(store, claims, key) == 'a'
        later()
        take(store, claims, key, 'b')
