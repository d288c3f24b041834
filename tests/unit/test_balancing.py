# SPDX-License-Identifier: Apache-2.0
"""A node that did not answer is asked last, for a while."""

from __future__ import annotations

import pytest
from cassandra.policies import LoadBalancingPolicy

from keystone_cassandra_token.db import balancing


class Fixed(LoadBalancingPolicy):
    def make_query_plan(self, working_keyspace=None, query=None):
        return iter('abc')


@pytest.fixture
def policy() -> balancing.SlowLast:
    return balancing.SlowLast(Fixed())


def plan(policy: balancing.SlowLast) -> str:
    return ''.join(policy.make_query_plan())


def test_as_it_is(policy) -> None:
    assert plan(policy) == 'abc'


def test_who_did_not_answer_is_last(policy) -> None:
    policy.is_slow('a')
    assert plan(policy) == 'bca'


def test_nobody_is_left_out(policy) -> None:
    for host in 'abc':
        policy.is_slow(host)
    assert plan(policy) == 'abc'


def test_who_answers_is_as_the_others(policy) -> None:
    policy.is_slow('a')
    policy.answered('a', ['a'])
    assert plan(policy) == 'abc'


def test_who_was_asked_first_and_did_not_answer_first(policy) -> None:
    policy.answered('b', ['a', 'b'])
    assert plan(policy) == 'bca'


def test_a_while_ends(policy, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(balancing.time, 'monotonic', lambda: now[0])
    policy.is_slow('a')
    now[0] += balancing.AVOIDED / 2
    assert plan(policy) == 'bca'
    now[0] += balancing.AVOIDED
    assert plan(policy) == 'abc'
