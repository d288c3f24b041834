# SPDX-License-Identifier: Apache-2.0
"""The judgement on the figures that the project promises."""

from __future__ import annotations

from typing import Any

import pytest
from lab.benchmark import systems, table, verdict
from lab.benchmark.verdict import Verdict
from lab.statements import Trips

#: Those that have a table of targets; the others judge by themselves.
OTHERS = ('hang', 'follow', 'regions', 'juice', 'waits')
JUDGED = [name for name in table.BENCHMARKS if name not in OTHERS]


@pytest.mark.parametrize('name', JUDGED)
def test_each_target_is_about_what_is_measured(name: str) -> None:
    calls = systems.calls(name)
    assert verdict.TARGETS[name]
    for target in verdict.TARGETS[name].values():
        for figure in (target.ours, target.theirs):
            operation = figure.operation.removesuffix(verdict.BATCH)
            assert figure.system in calls[operation].systems


def row(
    system: str,
    operation: str,
    size: int,
    p50: float,
    *,
    age: int = 1800,
    clients: int = 1,
    p99: float = 0.0,
) -> dict[str, Any]:
    return {
        'system': system,
        'operation': operation,
        'size': size,
        'token_age_s': age,
        'clients': clients,
        'p50_ms': p50,
        'p99_ms': p99 or p50,
    }


def revocation_rows(**changed: float) -> list[dict[str, Any]]:
    """Rows that meet each target exactly, but for what is changed."""
    value = {
        'few': 2.0,
        'many': 3.0,
        'few99': 4.0,
        'many99': 12.0,
        'sql': 300.0,
        'bare': 1.0,
        'revoke': 2.0,
        'batch': 2.0,
        'sql_revoke': 2.0,
    } | changed
    few, many = value['few'], value['many']
    return [
        row('cassandra', 'check', 10, few, p99=value['few99']),
        row('cassandra', 'check', 1_000_000, many, p99=value['many99']),
        row('bare', 'read token row', 10, value['bare'], age=0),
        row('bare', 'read token row', 1_000_000, value['bare'], age=0),
        row('sql', 'check', 100_000, value['sql']),
        row('sql', 'revoke', 10_000, value['sql_revoke'], age=0),
        row('cassandra', 'revoke', 10_000, value['revoke'], age=0),
        row(
            'cassandra',
            'revoke (commitlog batch)',
            10_000,
            value['batch'],
            age=0,
        ),
        # None of these may be taken for the ones above.
        row('cassandra', 'check', 1_000_000, 99.0, clients=8),
        row('cassandra', 'check', 1_000_000, 99.0, age=300),
        row('sql', 'check', 100_000, 0.001, age=300),
        row('sql', 'revoke', 1_000_000, 0.001, age=0),
    ]


def missed(rows: list[dict[str, Any]]) -> list[str]:
    return [
        v.target for v in verdict.judge('revocation', rows) if v.met is False
    ]


def judged(rows: list[dict[str, Any]]) -> int:
    return sum(v.met is not None for v in verdict.judge('revocation', rows))


def test_a_limit_that_is_just_reached_is_met() -> None:
    rows = revocation_rows()
    assert missed(rows) == []
    assert judged(rows) == 7
    assert not verdict.missed(verdict.judge('revocation', rows))


@pytest.mark.parametrize(
    ('changed', 'target'),
    [
        ({'few': 1.99}, 'p50 against its own'),
        ({'many99': 12.1}, 'p99 against its own'),
        ({'sql': 299.0}, 'against the SQL driver with 100000'),
        ({'bare': 0.99}, 'against a bare read'),
        ({'revoke': 2.1}, 'revoke against the SQL driver'),
        ({'batch': 2.21}, 'revoke (commitlog batch) against'),
    ],
)
def test_each_target_can_be_missed(
    changed: dict[str, float], target: str
) -> None:
    rows = revocation_rows(**changed)
    found = missed(rows)
    assert len(found) == 1
    assert target in found[0]
    assert verdict.missed(verdict.judge('revocation', rows))


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    rows = [row('cassandra', 'check', 10, 1.0)]
    found = list(verdict.judge('revocation', rows))
    assert found
    assert {v.met for v in found} == {None}
    assert {v.word for v in found} == {'not measured'}
    assert not verdict.missed(found)


@pytest.mark.parametrize(('ours', 'met'), [(1.5, True), (1.51, False)])
def test_validation_is_held_against_a_bare_read(
    ours: float, met: bool
) -> None:
    rows = [
        row('cassandra', 'validate', 500, ours, age=0),
        row('bare', 'read token row', 500, 1.0, age=0),
        row('fernet', 'validate', 500, 0.1, age=0),
    ]
    assert [found.met for found in verdict.judge('token', rows)] == [met]
    # The row of another number of tokens is another figure.
    rows[1]['size'] = 501
    assert {found.met for found in verdict.judge('token', rows)} == {None}


@pytest.mark.parametrize(
    ('value', 'met'), [(40.0, True), (40.01, False), (None, None)]
)
def test_at_most(value: float | None, met: bool | None) -> None:
    assert verdict.at_most('memory', value, 40, 'MB').met is met


def test_a_verdict_in_words() -> None:
    found = Verdict('memory', '40 MB', '41.00 MB', False)
    assert str(found) == 'MISSED        memory: 41.00 MB (limit 40 MB)'


def test_targets_of_users_are_ratios_to_sql() -> None:
    rows = [
        {
            'system': system,
            'operation': operation,
            'size': 100,
            'token_age_s': 0,
            'clients': 1,
            'p50_ms': p50,
        }
        for operation, ours, theirs in (
            ('get_user', 0.7, 1.0),
            ('create_user', 3.1, 1.0),
        )
        for system, p50 in (('cassandra', ours), ('sql', theirs))
    ]
    words = {
        found.target.split()[0]: found.word
        for found in verdict.judge('identity', rows)
    }
    assert words['get_user'] == 'met'
    assert words['create_user'] == 'MISSED'
    assert words['get_credential'] == 'not measured'


def keystone_rows(**changed: float) -> list[dict[str, Any]]:
    """Rows that meet each target exactly, but for what is changed."""
    value = {'few': 1.0, 'login': 1.0, 'many': 1.0} | changed
    validation, login = 'token validation', 'password log-in'
    return [
        row('cassandra', validation, 10, value['few']),
        row('sql', validation, 10, 1.0),
        row('cassandra', login, 10, value['login'], age=0),
        row('sql', login, 10, 1.0, age=0),
        row('cassandra', validation, 100_000, value['many']),
        row('sql', validation, 100_000, 8.0),
        row('cassandra', validation, 10, 99.0, clients=16),
    ]


@pytest.mark.parametrize('changed', ['few', 'login', 'many'])
def test_a_whole_keystone_is_held_against_sql(changed: str) -> None:
    met = list(verdict.judge('keystone', keystone_rows()))
    assert [found.met for found in met] == [True] * 3
    found = list(verdict.judge('keystone', keystone_rows(**{changed: 1.01})))
    assert [each.met for each in found].count(False) == 1


def test_fewer_revocations_than_the_target_names_judge_nothing() -> None:
    rows = [
        each | {'size': min(each['size'], 500)} for each in keystone_rows()
    ]
    words = [found.word for found in verdict.judge('keystone', rows)]
    assert words == ['met', 'met', 'not measured']


@pytest.mark.parametrize(('waits', 'met'), [(8, True), (9, False)])
def test_round_trips_are_those_that_follow_each_other(
    waits: int, met: bool
) -> None:
    found = verdict.round_trips(
        'log-in', Trips(99, 0, 0, waits), Trips(5, 2, 1, 8)
    )
    assert found.met is met
    assert found.measured == f'{waits} / 8'
