# SPDX-License-Identifier: Apache-2.0
"""Attempts at a change that others may make at the same moment."""

from __future__ import annotations

import time

import pytest

from keystone_cassandra_token.db import attempts, errors


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in a time that goes by pauses alone."""
    made: list[float] = []
    monkeypatch.setattr(attempts, 'pause', made.append)
    monkeypatch.setattr(time, 'monotonic', lambda: 100.0 + sum(made))
    return made


def exhausted(tries: attempts.Attempts) -> int:
    """Make all attempts; return how many they were."""
    count = 0
    try:
        while tries.another():
            count += 1
    except errors.Contended:
        return count


def test_the_first_is_made_at_once(paused) -> None:
    assert attempts.Attempts('user', 'u1').another()
    assert paused == []


def test_pauses_grow_to_a_bound_and_differ(paused) -> None:
    for _ in range(200):
        assert exhausted(attempts.Attempts('user', 'u1')) == attempts.MOST
    of_one = attempts.MOST - 1
    assert len(paused) == 200 * of_one
    longest = [max(paused[number::of_one]) for number in range(of_one)]
    for number, longest_one in enumerate(longest):
        # Half of the bound is exceeded, but once in 10^60 runs.
        bound = min(0.2, 0.005 * 2**number)
        assert bound / 2 < longest_one <= bound
    assert len(set(paused)) == len(paused)


def test_it_ends_in_time_too(paused, monkeypatch) -> None:
    monkeypatch.setattr(attempts, 'SECONDS', 1.0)
    assert 3 < exhausted(attempts.Attempts('user', 'u1', 1000)) < 1000
    assert sum(paused) <= 1.0


def test_what_is_told_names_what_is_contended(paused) -> None:
    tries = attempts.Attempts('registered limit', 'r1', most=1)
    assert tries.another()
    with pytest.raises(errors.Contended) as raised:
        tries.another()
    assert (
        raised.value.reason
        == 'Too many concurrent updates of registered limit r1; retry.'
    )
