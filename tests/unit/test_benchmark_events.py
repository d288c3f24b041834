# SPDX-License-Identifier: Apache-2.0
"""The events and tokens that are measured with."""

from __future__ import annotations

import collections
import datetime

import pytest
from keystone.models import revoke_model
from lab.benchmark import events

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)
SIZES = (10, 399, 1000, 20_000)


def attributes(event: revoke_model.RevokeEvent) -> tuple[str, ...]:
    return tuple(
        name
        for name in revoke_model.REVOKE_KEYS
        if not name.endswith('_before')
        and name != 'revoked_at'
        and getattr(event, name) is not None
    )


@pytest.mark.parametrize('size', SIZES)
def test_events_lie_in_the_last_hour(size: int) -> None:
    found = list(events.events(size, NOW))
    assert len(found) == size
    oldest = NOW - datetime.timedelta(seconds=events.SPREAD)
    assert all(oldest <= event.issued_before <= NOW for event in found)
    younger = sum(
        event.issued_before >= NOW - datetime.timedelta(seconds=1800)
        for event in found
    )
    # Half of them, the few related ones aside.
    assert younger == pytest.approx(size / 2, abs=max(2, size / 50))


@pytest.mark.parametrize('size', SIZES)
def test_the_mix_is_what_is_told(size: int) -> None:
    shapes = collections.Counter(
        attributes(event) for event in events.events(size, NOW)
    )
    related = shapes[('project_id',)] + shapes[('project_id', 'user_id')]
    # A third of them has the user alone, as unrelated ones have.
    assert related >= 2
    assert related * 3 / 2 == pytest.approx(max(3, size / 100), abs=1.5)
    if size >= 1000:
        pairs = shapes[('audit_id',)] + shapes[('audit_chain_id',)]
        assert pairs == pytest.approx(0.9 * 0.99 * size, rel=0.02)
        assert shapes[('audit_id',)] == pytest.approx(pairs / 2, rel=0.05)


@pytest.mark.parametrize('size', SIZES)
def test_shares_of_loaders_make_the_whole(size: int) -> None:
    def key(event: revoke_model.RevokeEvent) -> str:
        return repr(sorted(event.__dict__.items(), key=str))

    whole = sorted(map(key, events.events(size, NOW)))
    shares = [
        key(event)
        for first in range(3)
        for event in events.events(size, NOW, first, 3)
    ]
    assert sorted(shares) == whole


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('age', [300, 1800, 3300])
@pytest.mark.parametrize('trust', [False, True])
def test_tokens_are_live_and_one_that_is_told_is_revoked(
    size: int, age: int, trust: bool
) -> None:
    token = events.token_values(age, NOW, trust)
    names = ('user_id', 'project_id', 'audit_id', 'trust_id')

    def stops(event: revoke_model.RevokeEvent) -> bool:
        # Written anew: what an event has must be the token's.
        return event.issued_before >= token['issued_at'] and all(
            getattr(event, name) in (None, token[name])
            for name in (*names, 'audit_chain_id', 'consumer_id')
        )

    everything = list(events.events(size, NOW))
    assert not any(map(stops, everything))
    token |= events.token_values(3590, NOW) | {
        'audit_id': events.revoked_audit_id(size)
    }
    assert any(stops(event) and event.audit_id for event in everything)


def test_a_token_of_a_trust_has_nine_subjects() -> None:
    subjects = pytest.importorskip('lab.benchmark.revocation').subjects
    full = subjects(events.token_values(1800, NOW, trust=True))
    assert len(full) == len(set(full)) == 9
    plain = subjects(events.token_values(1800, NOW))
    assert set(plain) & set(full) == {
        f'user:{events.USER}',
        f'project:{events.PROJECT}',
        'other',
    }
    assert len(plain) == 5
