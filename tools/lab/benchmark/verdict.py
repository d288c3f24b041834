# SPDX-License-Identifier: Apache-2.0
"""The figures that the project promises, held against what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lab.statements import Trips

#: Age of the token that the promises are about: the middle of its hour.
MIDDLE = 1800
#: How an operation is named where the node syncs its log for each write.
BATCH = ' (commitlog batch)'

Rows = Iterable[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One target and what became of it.

    :ivar met: None if this run did not measure what it takes.
    """

    target: str
    limit: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        return {True: 'met', False: 'MISSED', None: 'not measured'}[self.met]

    def __str__(self) -> str:
        return f'{self.word:<12}  {self.target}: {self.measured}' + (
            f' (limit {self.limit})' if self.met is not None else ''
        )


@dataclasses.dataclass(frozen=True)
class Figure:
    """Which figure of which row.

    :ivar key: ``p50_ms`` or ``p99_ms``.
    """

    system: str
    operation: str
    size: int
    token_age: int = MIDDLE
    key: str = 'p50_ms'

    def find(self, rows: Rows) -> float | None:
        """Return the figure with one client, or None."""
        for row in rows:
            if (
                row['system'] == self.system
                and row['operation'] == self.operation
                and row['size'] == self.size
                and row['token_age_s'] == self.token_age
                and row['clients'] == 1
            ):
                return float(row[self.key])
        return None


def ratio(
    target: str, rows: Rows, figure: Figure, other: Figure, limit: float
) -> Verdict:
    """Judge that a figure is at most ``limit`` times another one."""
    return times(target, figure.find(rows), other.find(rows), limit, 'ms')


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
        return Verdict(target, words, 'not measured in this run', None)
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
        return Verdict(target, words, 'not measured in this run', None)
    return Verdict(target, words, f'{value:.2f} {unit}', value <= limit)


def revocation(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    """Judge the targets of the revocation check and of ``revoke``."""

    def check(size: int, key: str = 'p50_ms') -> Figure:
        return Figure('cassandra', 'check', size, key=key)

    few, many = 10, 1_000_000
    for key, limit in (('p50_ms', 1.5), ('p99_ms', 3)):
        yield ratio(
            f'check with {many} live revocations, {key[:3]} against its own'
            f' with {few}',
            rows,
            check(many, key),
            check(few, key),
            limit,
        )
    yield ratio(
        f'check with {many} against the SQL driver with 100000, p50, token'
        ' in the middle of its hour',
        rows,
        check(many),
        Figure('sql', 'check', 100_000),
        1 / 100,
    )
    for size in sorted({row['size'] for row in rows}):
        yield ratio(
            f'check with {size} against a bare read of a token row, p50',
            rows,
            check(size),
            Figure('bare', 'read token row', size, 0),
            3,
        )
    for operation in ('revoke', 'revoke' + BATCH):
        yield ratio(
            f'{operation} against the SQL driver, p50, 10000 live events',
            rows,
            Figure('cassandra', operation, 10_000, 0),
            Figure('sql', 'revoke', 10_000, 0),
            1,
        )


def validation(rows: list[dict[str, Any]], size: int) -> Verdict:
    """Judge ``validate_token``."""
    return ratio(
        'validate_token against a bare read of the same row, p50',
        rows,
        Figure('cassandra', 'validate', size, 0),
        Figure('bare', 'read token row', size, 0),
        1.5,
    )


def identity(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    """Judge the targets of users, groups and credentials."""
    size = max((row['size'] for row in rows), default=0)
    for operation, limit in (
        ('get_user', 0.8),
        ('get_user_by_name', 0.8),
        ('authenticate', 0.8),
        ('list_groups_for_user', 0.8),
        ('application credential log-in', 0.8),
        ('get_credential', 1.2),
        ('create_user', 3),
        ('add_user_to_group', 1),
    ):
        yield ratio(
            f'{operation} against the SQL driver, p50',
            rows,
            Figure('cassandra', operation, size, 0),
            Figure('sql', operation, size, 0),
            limit,
        )


def assignment(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    """Judge the targets of projects and grants."""
    size = max((row['size'] for row in rows), default=0)
    for operation in (
        'check_grant',
        'grants of a user on a project',
        'grants of 20 groups on a project',
        'get_project',
        'get_project_by_name',
        'domain by name',
    ):
        ours = Figure('cassandra', operation, size, 0)
        yield ratio(
            f'{operation} against the SQL driver, p50',
            rows,
            ours,
            Figure('sql', operation, size, 0),
            1.2,
        )
        yield ratio(
            f'{operation} against a bare read, p50',
            rows,
            ours,
            Figure('bare', 'read project row', size, 0),
            1.6,
        )
    for operation in ('500 grants of a project', 'subtree of 1 000'):
        yield ratio(
            f'{operation} against the SQL driver, p50',
            rows,
            Figure('cassandra', operation, size, 0),
            Figure('sql', operation, size, 0),
            1,
        )


def keystone(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    """Judge the times of a whole Keystone."""
    few, many = 10, 100_000
    for operation, age, size, limit in (
        ('token validation', MIDDLE, few, 1),
        ('password log-in', 0, few, 1),
        ('token validation', MIDDLE, many, 1 / 8),
    ):
        yield ratio(
            f'{operation} with {size} live revocations against SQL, p50',
            rows,
            Figure('cassandra', operation, size, age),
            Figure('sql', operation, size, age),
            limit,
        )


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
