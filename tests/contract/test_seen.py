# SPDX-License-Identifier: Apache-2.0
"""What ends by a revocation does so whatever the clocks of the servers say.

Random histories of servers whose clocks differ: whether a token is stopped is
decided by what happened before what, and by nothing else.
"""

from __future__ import annotations

import datetime
import random
import time
import types
import uuid
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import pytest
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from oslo_config import cfg
from oslo_utils import timeutils

from keystone_cassandra_token.conf.options import DRIVER
from keystone_cassandra_token.db import changes, clock, following, remembered
from keystone_cassandra_token.db.rows import json_text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import (
    events,
    provider,
    revoke,
    seen,
)

SECOND = datetime.timedelta(seconds=1)
NOW = clock.utcnow().replace(microsecond=0)
#: By how much a clock differs from the right time at most: two differ by
#: less than :data:`seen.SLACK`.
SKEW = 25
SEEDS = range(8)
STEPS = 50
#: Seconds after which what is heard comes late.
LATE = following.LATE / 10**6
HERE = events.here
#: Each thing takes some time.
MICROSECOND = datetime.timedelta(microseconds=1)


class Clocks:
    """The right time, and servers that have another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self._server = ''
        monkeypatch.setattr(events, 'here', lambda: self._server)

    def on(self, server: tuple[str, int]) -> None:
        self.now += MICROSECOND
        self._server, skew = server
        timeutils.set_time_override(self.now + skew * SECOND)


class Token:
    """A token that was issued.

    :ivar past: of how many revocations it is younger.
    """

    def __init__(self, model: TokenModel, issued_at: str, past: int) -> None:
        self.model = model
        self.past = past
        self.known = revoke_model.blank_token_data(
            timeutils.normalize_time(timeutils.parse_isotime(issued_at))
        ) | {
            'roles': [],
            'user_id': model.user_id,
            'project_id': model.project_id,
            'audit_id': model.audit_id,
            'audit_chain_id': model.parent_audit_id,
        }


class Region:
    """Servers that share a Cassandra, and what they were asked."""

    def __init__(self, store: Store, clocks: Clocks) -> None:
        self.store = store
        self.clocks = clocks
        self.tokens = provider.Provider()
        self.revocations = revoke.Revoke()
        self.user_id = uuid.uuid4().hex
        self.project_id = uuid.uuid4().hex

    def log_in(self, past: int, project: bool = False) -> Token:
        """Log in, as a user with a password does."""
        with remembered.within_request():
            for begins in base.log_in_begins:
                begins(self.store, self.user_id).result()
            return self._issued(past, None, project)

    def exchange(
        self, token: Token, past: int, project: bool, is_cached: bool = False
    ) -> Token:
        with remembered.within_request():
            assert is_cached or not self.is_revoked(token)
            model = token.model
            first = model.parent_audit_id or model.audit_id
            return self._issued(past, first, project)

    def exchange_federated(self, is_cached: bool) -> Token:
        """Exchange a token of a federated user, which begins no chain."""
        with remembered.within_request():
            if not is_cached:
                assert not self.is_revoked(self._issued(0, None))
            return self._issued(0, None, methods=('token', 'mapped'))

    def use_trust(self, trustor_id: str, token: Token) -> Token:
        """Exchange a token for one that is the trustor's."""
        model = token.model
        trust = {
            'trustor_user_id': trustor_id,
            'trustee_user_id': self.user_id,
        }
        with (
            remembered.within_request(),
            mock.patch.object(TokenModel, 'trust', trust),
        ):
            assert not self.is_revoked(token)
            used = self._issued(
                0, model.audit_id, user_id=trustor_id, trust_id='trust'
            )
        used.known |= {
            'trust_id': 'trust',
            'trustor_id': trustor_id,
            'trustee_id': self.user_id,
        }
        return used

    def _issued(
        self,
        past: int,
        first: str | None,
        project: bool = False,
        methods: Iterable[str] = ('password',),
        user_id: str | None = None,
        trust_id: str | None = None,
    ) -> Token:
        model = TokenModel()
        model.user_id = user_id or self.user_id
        model.trust_id = trust_id
        model.methods = list(methods)
        model.audit_id = uuid.uuid4().hex[:22]
        model.parent_audit_id = first
        model.project_id = self.project_id if project else None
        model.expires_at = (clock.utcnow() + 3600 * SECOND).isoformat() + 'Z'
        _, issued_at = self.tokens.generate_id_and_issued_at(model)
        return Token(model, issued_at, past)

    def revoke(self, **names: str) -> None:
        self.revocations.revoke(revoke_model.RevokeEvent(**names))

    def is_revoked(self, token: Token) -> bool:
        found = self.revocations.list_events(token=token.known)
        return revoke_model.is_revoked(found, token.known)

    def told(self, **names: str) -> dict[str, Any]:
        """Return what another region tells of a revocation, made now."""
        subject, scope = events.address(revoke_model.RevokeEvent(**names))
        now = clock.to_micros(clock.utcnow())
        kept = events.Kept(9000, events.here())
        return {
            'subject': subject,
            'scope': json_text.encode(events.keyed(scope, kept)),
            'issued_before': now,
            'revoked_at': now,
            'made_at': now,
            'end': now // 10**6 + 9000,
        }

    def hear(self, key: dict[str, Any], late: bool) -> None:
        changes.FETCH[changes.REVOCATION](self.store, [key])
        if late:
            changes.LATE[changes.REVOCATION](self.store, [key])


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocks]:
    yield Clocks(monkeypatch)
    timeutils.clear_time_override()


@pytest.fixture
def region(
    conf: cfg.ConfigOpts, store: Store, clocks: Clocks
) -> Iterator[Region]:
    conf.set_override('provider', DRIVER, group='token')
    clocks.on(('a', 0))
    yield Region(store, clocks)
    conf.clear_override('provider', group='token')


@pytest.mark.parametrize('seed', SEEDS)
def test_what_happened_before_decides(
    region: Region, clocks: Clocks, seed: int
) -> None:
    chance = random.Random(seed)
    servers = [(name, chance.randint(-SKEW, SKEW)) for name in ('a', 'b', 'c')]
    elsewhere = 'far', chance.randint(-SKEW, SKEW)
    tokens: list[Token] = []
    under_way: list[tuple[datetime.datetime, dict[str, Any]]] = []
    revocations = 0
    for _ in range(STEPS):
        pause = chance.choice((0, 0, 0.1, 1, 5, 40, 300))
        clocks.now += pause * SECOND
        clocks.on(chance.choice(servers))
        what = chance.choice(
            ('log in', 'log in', 'exchange', 'revoke', 'far', 'hear')
        )
        if what == 'log in':
            tokens.append(region.log_in(revocations))
        elif what == 'exchange' and tokens:
            token = chance.choice(tokens)
            if token.past == revocations:
                tokens.append(region.exchange(token, revocations, False))
        elif what == 'revoke':
            region.revoke(user_id=region.user_id)
            revocations += 1
        elif what == 'far':
            clocks.on(elsewhere)
            told = region.told(user_id=region.user_id)
            under_way.append((clocks.now, told))
        elif what == 'hear' and under_way:
            made_at, told = under_way.pop(0)
            region.hear(told, late=clocks.now - made_at >= LATE * SECOND)
            revocations += 1
        clocks.on(chance.choice(servers))
        for token in tokens[-5:]:
            stopped = token.past < revocations
            assert region.is_revoked(token) == stopped, what


@pytest.mark.parametrize('seed', SEEDS)
def test_a_project_too(region: Region, clocks: Clocks, seed: int) -> None:
    """Who comes after may be refused for as long as clocks differ."""
    chance = random.Random(seed)
    servers = [(name, chance.randint(-SKEW, SKEW)) for name in ('a', 'b', 'c')]
    tokens: list[Token] = []
    revocations = 0
    accepted = 0
    for _ in range(STEPS):
        clocks.now += chance.choice((0, 0.1, 1, 5, 40, 300)) * SECOND
        clocks.on(chance.choice(servers))
        what = chance.choice(('log in', 'exchange', 'revoke'))
        if what == 'log in':
            tokens.append(region.log_in(revocations, project=True))
        elif what == 'revoke':
            region.revoke(project_id=region.project_id)
            revocations += 1
        elif tokens:
            token = chance.choice(tokens)
            if not region.is_revoked(token):
                tokens.append(region.exchange(token, revocations, True))
        for token in tokens[-5:]:
            if token.past < revocations:
                assert region.is_revoked(token), what
            accepted += not region.is_revoked(token)
    assert accepted


def test_who_has_seen_it_goes_on_when_it_comes_late(
    region: Region, clocks: Clocks, keyspace: str
) -> None:
    """It was known where the token is from, and was not where it goes."""
    told = region.told(user_id=region.user_id)
    region.hear(told, late=False)
    clocks.now += 300 * SECOND
    clocks.on(('far', 0))
    knows = region.log_in(1)
    child = region.exchange(knows, 1, False)
    session = region.store.sessions.get().session
    session.execute(
        f'DELETE FROM {keyspace}.revocation USING TIMESTAMP %s'
        ' WHERE subject = %s',
        (told['issued_before'], told['subject']),
    )
    clocks.on(('a', 0))
    former = region.log_in(0)
    assert not region.is_revoked(former)
    clocks.now += 300 * SECOND
    clocks.on(('a', 0))
    region.hear(told, late=True)
    assert region.is_revoked(former)
    assert not region.is_revoked(knows)
    assert not region.is_revoked(child)
    assert not region.is_revoked(region.log_in(1))
    # Told again by each of the others, it comes to the same.
    region.hear(told, late=True)
    assert not region.is_revoked(knows)


@pytest.mark.parametrize('is_federated', [False, True])
def test_a_token_that_was_valid_in_a_cache_gets_none_that_lives_on(
    region: Region, clocks: Clocks, is_federated: bool
) -> None:
    """Caches of other regions are told a moment after the revocation."""
    token = region.log_in(0)
    clocks.now += 300 * SECOND
    clocks.on(('a', 0))
    region.revoke(user_id=region.user_id)
    clocks.now += 2 * SECOND
    clocks.on(('a', 0))
    if is_federated:
        got = region.exchange_federated(is_cached=True)
    else:
        got = region.exchange(token, 0, False, is_cached=True)
    assert region.is_revoked(token)
    assert region.is_revoked(got)


def test_a_federated_token_that_knows_a_revocation_is_exchanged(
    region: Region, clocks: Clocks
) -> None:
    region.revoke(user_id=region.user_id)
    clocks.now += 2 * SECOND
    clocks.on(('a', 0))
    assert not region.is_revoked(region.exchange_federated(is_cached=False))


def test_a_trust_is_used_after_its_trustor_was_revoked(
    region: Region, clocks: Clocks
) -> None:
    """Also where it is taken for late afterwards."""
    trustor_id = uuid.uuid4().hex
    told = region.told(user_id=trustor_id)
    region.hear(told, late=False)
    clocks.now += 300 * SECOND
    clocks.on(('a', 0))
    used = region.use_trust(trustor_id, region.log_in(0))
    assert not region.is_revoked(used)
    clocks.now += SECOND
    clocks.on(('a', 0))
    region.hear(told, late=True)
    assert not region.is_revoked(used)


def test_what_comes_late_is_told_again_once(
    region: Region, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what two regions tell each other would grow and grow."""
    told = region.told(user_id=region.user_id)
    again: list[dict[str, Any]] = []
    monkeypatch.setattr(
        changes, 'tell', lambda db, table, key: again.append(key)
    )
    for _ in range(3):
        clocks.now += 2 * LATE * SECOND
        clocks.on(('a', 0))
        region.hear(told, late=True)
    assert len(again) == 1
    # One that was repeated elsewhere, and comes late from there, is again.
    region.hear(again[0], late=True)
    assert len(again) == 2
    region.hear(again[0], late=True)
    assert len(again) == 2


def test_the_second_one_of_a_second_is_fetched(
    region: Region,
) -> None:
    told = region.told(user_id=region.user_id)
    region.hear(told, late=False)
    token = region.log_in(1)
    assert not region.is_revoked(token)
    region.hear(told | {'made_at': told['made_at'] + 1}, late=False)
    assert region.is_revoked(token)


def test_what_a_later_version_keeps_is_left_alone() -> None:
    kept = {'ttl': 9000, 'by': 'a', 'more': 1}
    assert events.kept({'scope': {'kept': kept}}) == events.Kept(9000, 'a')


def test_a_clock_that_is_set_back_hides_nothing(
    region: Region, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, 'here', HERE)
    region.revoke(user_id=region.user_id)
    token = region.log_in(1)
    assert not region.is_revoked(token)
    now = time.time()
    monkeypatch.setattr(
        events, 'time', mock.Mock(wraps=time, time=lambda: now - 5)
    )
    clocks.on(('a', -5))
    region.revoke(user_id=region.user_id)
    assert region.is_revoked(token)


def test_what_is_compared_is_read_after_the_revocations(
    region: Region,
) -> None:
    """Else the former password gets a token that nothing stops."""
    begins = base.log_in_begins
    with remembered.within_request():
        assert not any(
            each(region.store, region.user_id).result() for each in begins
        )
    region.revoke(user_id=region.user_id)
    with remembered.within_request():
        assert any(
            each(region.store, region.user_id).result() for each in begins
        )


def test_another_provider_relies_on_clocks(
    conf: cfg.ConfigOpts, region: Region, clocks: Clocks
) -> None:
    """Its tokens note nothing."""
    region.revoke(user_id=region.user_id)
    clocks.now += SECOND
    clocks.on(('a', 0))
    conf.set_override('provider', 'fernet', group='token')
    token = region.log_in(1)
    assert not region.is_revoked(token)
    assert (
        region.store.rows(
            seen.GET, seen.SEEN, audit_ids=[token.model.audit_id]
        )
        == []
    )


def test_a_note_that_is_not_here_yet_is_sought_elsewhere(
    region: Region,
    clocks: Clocks,
    keyspace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    region.revoke(user_id=region.user_id)
    token = region.log_in(1)
    ids = {'audit_ids': [token.model.audit_id]}
    (note,) = region.store.rows(seen.GET, seen.SEEN, **ids)
    region.store.sessions.get().session.execute(
        f'DELETE FROM {keyspace}.token_seen WHERE audit_id = %s',
        (token.model.audit_id,),
    )
    assert region.is_revoked(token)
    there: Any = types.SimpleNamespace(rows=lambda *_, **__: [note])
    asks: Any = types.SimpleNamespace(ask=lambda key, look: look(there))
    monkeypatch.setattr(region.store, 'escalation', asks)
    assert not region.is_revoked(token)
    # What is older has arrived, or never will.
    clocks.now += 3600 * SECOND
    clocks.on(('a', 0))
    region.revoke(user_id=region.user_id)
    assert region.is_revoked(token)
