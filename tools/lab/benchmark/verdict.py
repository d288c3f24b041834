# SPDX-License-Identifier: Apache-2.0
"""The figures that the project promises, held against what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lab.statements import Trips

#: Age of the token that the promises are about: the middle of its hour.
MIDDLE = 1800
#: How an operation is named where the node syncs its log for each write.
BATCH = ' (commitlog batch)'

Rows = Iterable[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One target and what became of it."""

    target: str
    limit: str
    measured: str = 'not measured in this run'
    met: bool | None = None  # then, too

    @property
    def word(self) -> str:
        return {True: 'met', False: 'MISSED', None: 'not measured'}[self.met]

    def __str__(self) -> str:
        limit = '' if self.met is None else f' (limit {self.limit})'
        return f'{self.word:<12}  {self.target}: {self.measured}{limit}'


class Figure(NamedTuple):
    """Which figure of which row, with one client."""

    system: str
    operation: str
    size: int | None = None  # each that was measured
    token_age: int = 0
    key: str = 'p50_ms'  # or p99_ms

    def find(self, rows: Rows, size: int) -> float | None:
        """Return the figure, or None."""
        names = ('system', 'operation', 'size', 'token_age_s', 'clients')
        wanted = (*self[:2], self.size or size, self.token_age, 1)
        for row in rows:
            if tuple(row[name] for name in names) == wanted:
                return float(row[self.key])
        return None


class Target(NamedTuple):
    """That a figure is at most ``limit`` times another one."""

    limit: float
    ours: Figure
    theirs: Figure


def _sql(limit: float, *operations: str) -> dict[str, Target]:
    """Return the targets of operations as times of the SQL driver's."""
    return {
        f'{name} against the SQL driver, p50': Target(
            limit, Figure('cassandra', name), Figure('sql', name)
        )
        for name in operations
    }


_CHECK = Figure('cassandra', 'check', 1_000_000, MIDDLE)
_SQL_CHECK = Figure('sql', 'check', 100_000, MIDDLE)
_SQL_REVOKE = Figure('sql', 'revoke', 10_000)
_BARE_TOKEN = Figure('bare', 'read token row')
_BARE_PROJECT = Figure('bare', 'read project row')
_GRANTS = (
    'check_grant',
    'grants of a user on a project',
    'grants of 20 groups on a project',
    'get_project',
    'get_project_by_name',
    'domain by name',
)

#: By benchmark and by what they say, where ``{size}`` stands for the size; a
#: benchmark without has targets that its module judges.
TARGETS: dict[str, dict[str, Target]] = {
    'revocation': {
        **{
            f'check with 1000000 live revocations, {key[:3]} against its own'
            ' with 10': Target(
                limit,
                _CHECK._replace(key=key),
                _CHECK._replace(key=key, size=10),
            )
            for key, limit in (('p50_ms', 1.5), ('p99_ms', 3))
        },
        'check with 1000000 against the SQL driver with 100000, p50, token in'
        ' the middle of its hour': Target(1 / 100, _CHECK, _SQL_CHECK),
        'check with {size} against a bare read of a token row, p50': Target(
            3, _CHECK._replace(size=None), _BARE_TOKEN
        ),
        **{
            f'{name} against the SQL driver, p50, 10000 live events': Target(
                limit, Figure('cassandra', name, 10_000), _SQL_REVOKE
            )
            for name, limit in (('revoke', 1), ('revoke' + BATCH, 1.1))
        },
    },
    'token': {
        'validate_token against a bare read of the same row, p50': Target(
            1.5, Figure('cassandra', 'validate'), _BARE_TOKEN
        )
    },
    'identity': {
        **_sql(0.8, 'get_user', 'get_user_by_name', 'authenticate'),
        **_sql(0.8, 'list_groups_for_user', 'application credential log-in'),
        **_sql(1.2, 'get_credential'),
        **_sql(1.2, 'create_user'),
        **_sql(1, 'add_user_to_group'),
    },
    'assignment': {
        **_sql(1.2, *_GRANTS),
        **{
            f'{name} against a bare read, p50': Target(
                1.6, Figure('cassandra', name), _BARE_PROJECT
            )
            for name in _GRANTS
        },
        **_sql(1, '500 grants of a project', 'subtree of 1 000'),
    },
    'keystone': {
        f'{name} with {size} live revocations against SQL, p50': Target(
            limit,
            Figure('cassandra', name, size, age),
            Figure('sql', name, size, age),
        )
        for name, age, size, limit in (
            ('token validation', MIDDLE, 10, 1),
            ('password log-in', 0, 10, 1),
            ('token validation', MIDDLE, 100_000, 1 / 8),
        )
    },
}


def judge(benchmark: str, rows: Rows) -> list[Verdict]:
    """Judge the targets of a benchmark that its rows tell."""
    rows = list(rows)
    sizes = sorted({row['size'] for row in rows}) or [0]
    return [
        times(
            text.format(size=size),
            target.ours.find(rows, size),
            target.theirs.find(rows, size),
            target.limit,
            'ms',
        )
        for text, target in TARGETS.get(benchmark, {}).items()
        for size in (sizes if target.ours.size is None else [0])
    ]


def times(
    target: str,
    ours: float | None,
    theirs: float | None,
    limit: float,
    unit: str,
) -> Verdict:
    """Judge that a value is at most ``limit`` times another one."""
    words = f'{limit:.4g} x'
    if ours is None or theirs is None:
        return Verdict(target, words)
    measured = (
        f'{ours:.3f} {unit} / {theirs:.3f} {unit} = {ours / theirs:.4f} x'
    )
    return Verdict(target, words, measured, ours <= limit * theirs)


def at_most(
    target: str, value: float | None, limit: float, unit: str
) -> Verdict:
    """Judge that a value is at most ``limit``."""
    words = f'{limit:g} {unit}'
    if value is None:
        return Verdict(target, words)
    return Verdict(target, words, f'{value:.2f} {unit}', value <= limit)


def round_trips(operation: str, ours: Trips, theirs: Trips) -> Verdict:
    """Judge that a request waits for its database no more often."""
    return Verdict(
        f'round trips of {operation} that follow each other, against SQL',
        'no more',
        f'{ours.waits} / {theirs.waits}',
        ours.waits <= theirs.waits,
    )


def missed(verdicts: Iterable[Verdict]) -> bool:
    """Return whether a target was missed."""
    return any(verdict.met is False for verdict in verdicts)
